"""What an operator may set, and how it is read.

One TOML file per node, ``STATE/config.toml`` unless ``--config`` names another; every section is one frozen dataclass,
every key a field with a docstring that says what it does, in which unit, and why the default is what it is.
The reference in ``docs/reference-config.md`` is generated from these docstrings (``node.config_reference``), so the
documentation cannot drift from the code.

Reading is strict, because a misspelt key that is silently ignored is found in production: an unknown key or a value
of the wrong type is a :class:`ConfigError` that names the file, the key, the value, and what was expected.  The file
is never written back; what the program decides for itself (trust given at run time, certificates, rounds) lives in the
state directory.

Where the state directory comes from, first match wins: ``-C DIR``, ``MYCELIA_STATE_DIR``, ``node.state_dir`` of a
file named by ``--config`` or ``MYCELIA_CONFIG``, ``$XDG_STATE_HOME/mycelia``, ``~/.local/state/mycelia``.
No other environment variable changes a setting.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fl.data.binding import Binding
from protocol.errors import ConfigError

STATE_ENV = "MYCELIA_STATE_DIR"
CONFIG_ENV = "MYCELIA_CONFIG"
FILE_NAME = "config.toml"
MAX_FILE = 1 << 20
"""Bytes of a configuration file that are read at all."""
MAX_SOCKET_PATH = 107
"""Bytes that Linux leaves for the path of a unix socket."""

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSection:
    """Who this node is and where it is reached."""

    name: str = ""
    """Label in logs and tables; identity is the key, never the name. Default: the host name."""
    state_dir: str = ""
    """Directory of keys, durable state and models. Read only from a file given by `--config`; `-C` and
    `MYCELIA_STATE_DIR` win. Default: `$XDG_STATE_HOME/mycelia`, else `~/.local/state/mycelia`."""
    listen: str = "[::]:7447"
    """Address `HOST:PORT` on which peers dial this node; port 0 picks a free one and keeps it. `[::]` accepts
    IPv6 and IPv4. Empty: the node only dials out and is a leaf member, which owns no keys and roots no trees."""
    advertise: tuple[str, ...] = ()
    """Addresses `HOST:PORT` that peers are told to dial, best first, at most 8. Set it behind port forwarding or in a
    container. Default: the listening address, with the host's own addresses for a wildcard."""
    join_listen: str = "[::]:7448"
    """Address `HOST:PORT` on which an issuer answers `mycelia join`; it proves the server to the joiner, who has no
    certificate yet. Nodes that issue no certificates do not open it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksSection:
    """Links to peers. The defaults hold from a LAN to a slow uplink; there are no protocol time-outs to tune."""

    dial_timeout_s: Seconds = 5.0
    """Seconds until a dial is given up and the peer reported unreachable. A TLS handshake takes milliseconds; 5 s
    covers a satellite link."""
    idle_close_s: Seconds = 900.0
    """Seconds after which an unused link is closed. Longer than the pauses between a ring's exchanges: to dial again
    costs a handshake of 8 kB, to keep a link costs nothing."""
    max_links: Count = 64
    """Links above which the least recently used are closed; at twice as many newcomers are refused. A node of a large
    fabric needs about 40; each costs about 0.5 MB."""
    queue_frames: Count = 512
    """Messages that wait for one peer before it counts as unreachable. Models do not queue here: they move as
    transfers."""
    max_penalties: Count = 32
    """Protocol violations, forgotten with time, after which a peer is disconnected. One may be a version skew; a stream
    of them is an attack or a bug."""
    ban_s: Seconds = 300.0
    """Seconds for which such a peer is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSection:
    """The processes that run applications' code: separate from the daemon, without network access."""

    enabled: bool = True
    """Whether this node trains. When false it joins, routes and aggregates only."""
    max: Count = 1
    """Worker processes at once, one application each. Two trainings on the same cores are slower than one after the
    other."""
    threads: Count = 1
    """CPU threads of one worker. One leaves the machine to its owner and makes training reproducible."""
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 5
    """Scheduling priority of a worker, 0 to 19, higher yields more. 5 keeps the daemon's heartbeats on time under full
    load."""
    memory_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    """MiB that a worker may take: of address space, before it fails, and of memory together with temporary files in
    memory and the answer in the making, before it is ended; 0 for no limit. Torch itself maps about 2000."""
    fork_server: str = ""
    """Socket of a running fork server from which to take worker processes, so that the daemons of one machine share the
    memory of one torch. Default: the daemon starts one of its own when it first trains."""
    timeout_s: Seconds = 3600.0
    """Seconds until a task is taken for hung and its worker killed. The round does not wait that long: its deadline is
    measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSection:
    """Whose code may run here. It runs in a worker, but it sees the data that it trains on."""

    owners: tuple[str, ...] = ()
    """Public keys (64 hex digits) of application owners trusted besides the fabric's owner. `mycelia trust add` adds
    more at run time."""
    fabric_owner: bool = True
    """Whether the owner of the fabric is trusted. When false, only those listed or added are."""
    approve: Literal["owner", "hash"] = "owner"
    """`owner`: the signature of a trusted owner is enough. `hash`: no signature is; each version of the code must be
    approved here with `mycelia trust add HASH`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSection:
    """Disk use."""

    quota_gib: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """GiB that models and updates may take. The last two versions of each application and pinned ones are kept, older
    ones go first; a full quota refuses new work, it never deletes what is pinned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSection:
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written. `debug` writes every message between nodes."""
    format: Literal["human", "json"] = "human"
    """What a daemon in the foreground writes on its standard error. The file in the state directory is always JSON, one
    object per line (`ts`, `level`, `logger`, `node`, `app`, `round`, `msg`); `mycelia logs` shows it as text."""
    max_mib: Count = 16
    """MiB at which the log file in the state directory is rotated."""
    keep: Annotated[int, msgspec.Meta(ge=1, le=99)] = 3
    """Rotated files kept, so that logs never take more than (`keep` + 1) × `max_mib`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSection:
    """The socket through which the `mycelia` command talks to the daemon."""

    socket: str = ""
    """Path of the unix socket. Set it when the state directory's path is longer than about 90 bytes. Default:
    `control.sock` in the state directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything an operator has set, checked."""

    node: NodeSection = field(default_factory=NodeSection)
    links: LinksSection = field(default_factory=LinksSection)
    worker: WorkerSection = field(default_factory=WorkerSection)
    data: Mapping[str, Binding] = field(default_factory=lambda: types.MappingProxyType({}))
    trust: TrustSection = field(default_factory=TrustSection)
    storage: StorageSection = field(default_factory=StorageSection)
    log: LogSection = field(default_factory=LogSection)
    control: ControlSection = field(default_factory=ControlSection)
    state_dir: Path = Path()
    """Absolute; where everything durable lives.  Not a key."""
    source: Path | None = None
    """The file that was read; None when there was none.  Not a key."""

    @property
    def socket_path(self) -> Path:
        """Where the control API answers.  Raises ConfigError when the path does not fit a socket address."""
        path = Path(self.control.socket).expanduser() if self.control.socket else self.state_dir / "control.sock"
        length = len(os.fsencode(path))
        if length > MAX_SOCKET_PATH:
            raise ConfigError(
                f"the control socket's path is {length} bytes long, the system takes {MAX_SOCKET_PATH}: {path}",
                "use a shorter state directory, or set [control] socket to a short path",
            )
        return path

    @property
    def log_path(self) -> Path:
        return self.state_dir / "logs" / "mycelia.log"


SECTIONS: Mapping[str, type] = {
    "node": NodeSection,
    "links": LinksSection,
    "worker": WorkerSection,
    "data": Binding,
    "trust": TrustSection,
    "storage": StorageSection,
    "log": LogSection,
    "control": ControlSection,
}
"""Name in the file → its keys.  ``data`` is a table of tables: ``[data.NAME]``."""


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """The state directory of someone who has set nothing."""
    if environ.get(STATE_ENV):
        return Path(environ[STATE_ENV]).expanduser().absolute()
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return (Path(base).expanduser() / "mycelia").absolute()


def load(
    state_dir: Path | None = None, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> NodeConfig:
    """The configuration of the node in ``state_dir``; all defaults when it has no file.

    ``file`` (or ``MYCELIA_CONFIG``) names another file, which must then exist.  Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get(CONFIG_ENV):
        file = Path(environ[CONFIG_ENV])
    named = file is not None
    file = (file or (state_dir or default_state_dir(environ)) / FILE_NAME).expanduser().absolute()
    found = named or file.exists()
    config = parse(_read(file) if found else "", file)
    if state_dir is None and named and config.node.state_dir and not environ.get(STATE_ENV):
        state_dir = file.parent / Path(config.node.state_dir).expanduser()
    state_dir = (state_dir or default_state_dir(environ)).expanduser().absolute()
    return dataclasses.replace(config, state_dir=state_dir, source=file if found else None)


def find(
    state_dir: Path | None = None, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> NodeConfig:
    """Where the node is, of a file that cannot be read as a whole: its state directory and its control socket are taken
    from it as far as they make sense.  For commands that must work while somebody is editing the file."""
    environ = os.environ if environ is None else environ
    if file is None and environ.get(CONFIG_ENV):
        file = Path(environ[CONFIG_ENV])
    named = file is not None
    file = (file or (state_dir or default_state_dir(environ)) / FILE_NAME).expanduser().absolute()
    socket, home = _salvaged(file, "control", "socket"), _salvaged(file, "node", "state_dir")
    if state_dir is None and named and home and not environ.get(STATE_ENV):
        state_dir = file.parent / Path(home).expanduser()
    state_dir = (state_dir or default_state_dir(environ)).expanduser().absolute()
    return NodeConfig(control=ControlSection(socket=socket), state_dir=state_dir, source=file)


def _salvaged(file: Path, section: str, key: str) -> str:
    """One string of a file that may be broken: of its tables if it is TOML, else of the line that looks like it."""
    try:
        text = _read(file)
    except ConfigError:
        return ""
    try:
        value = tomllib.loads(text).get(section, {}).get(key, "")
    except (tomllib.TOMLDecodeError, AttributeError):
        lines = re.findall(rf'^\s*{key}\s*=\s*"([^"\\]*)"\s*(?:#.*)?$', text, re.MULTILINE)
        value = lines[0] if len(lines) == 1 else ""
    return value if isinstance(value, str) else ""


def parse(text: str, file: Path) -> NodeConfig:
    """The configuration in ``text``; ``file`` is named in errors.  Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
        raise ConfigError(f"{file} is not valid TOML: {reason[:1].lower()}{reason[1:]}", "fix that line") from None
    sections: dict[str, Any] = {}
    for name, table in document.items():
        if name not in SECTIONS:
            raise _unknown(file, f"section [{name}]", name, list(SECTIONS))
        if not isinstance(table, dict):
            raise ConfigError(f"{file}: {name} is a section, not a value", f"write [{name}] on a line of its own")
        if name == "data":
            sections[name] = types.MappingProxyType({key: _binding(file, key, value) for key, value in table.items()})
        else:
            sections[name] = _section(file, name, SECTIONS[name], table)
    return NodeConfig(**sections)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", "check the path and its permissions") from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"{file} is larger than {MAX_FILE} bytes", "is it a configuration file?")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text", "is it a configuration file?") from None


def _binding(file: Path, name: str, table: object) -> Binding:
    binding: Binding = _section(file, f"data.{name}", Binding, table)
    # What is written beside the file means the same wherever the daemon was started.
    return dataclasses.replace(binding, path=str(file.parent / Path(binding.path).expanduser()) if binding.path else "")


def _section(file: Path, name: str, cls: type, table: object) -> Any:
    """One section, every key checked by itself so that the error names it."""
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: {name} is a section, not a value", f"write [{name}] on a line of its own")
    hints = typing.get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            raise _unknown(file, f"key {key} in [{name}]", key, list(hints))
        try:
            values[key] = msgspec.convert(value, hints[key])
        except msgspec.ValidationError:
            raise ConfigError(
                f"{file}: [{name}] {key} = {_shown(value)} is not {expected(hints[key])}",
                "see `mycelia config reference`",
            ) from None
    for required in dataclasses.fields(cls):
        if required.default is dataclasses.MISSING and required.name not in values:
            raise ConfigError(f"{file}: [{name}] lacks {required.name}", f"set it to {expected(hints[required.name])}")
    return cls(**values)


def _unknown(file: Path, what: str, name: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"known are: {', '.join(known)}"
    return ConfigError(f"{file}: unknown {what}", remedy)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."


_PLAIN = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def expected(hint: Any) -> str:
    """What a key of type ``hint`` takes, in words: ``an integer from 0 to 19``."""
    if typing.get_origin(hint) is Annotated:
        base, *metas = typing.get_args(hint)
        return expected(base) + "".join(_bounds(meta) for meta in metas)
    if typing.get_origin(hint) is Literal:
        choices = [f'"{choice}"' for choice in typing.get_args(hint)]
        return ", ".join(choices[:-1]) + f" or {choices[-1]}"
    if typing.get_origin(hint) is tuple:
        return "a list of strings"
    return _PLAIN[hint]


def _bounds(meta: msgspec.Meta) -> str:
    if meta.ge is not None and meta.le is not None:
        return f" from {meta.ge} to {meta.le}"
    if meta.ge is not None:
        return f" of at least {meta.ge}"
    return f" above {meta.gt}" if meta.gt is not None else ""
