"""One ring per zone: tables, routing, joining, failure detection and signed records."""
