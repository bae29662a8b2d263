"""Who is who: keys, certificates, the fabric's document, invitations, enrolment, renewal and revocation."""
