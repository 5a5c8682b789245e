"""The gate of a trained APT prefix as a probe: where a task wants its prefix, and the variable prefix that follows."""
