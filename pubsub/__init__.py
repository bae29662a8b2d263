"""The forest: one aggregation tree and one fenced round head per application."""
