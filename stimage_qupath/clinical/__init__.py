"""From predicted expression to patients: cohorts, survival, drug response. Arrays and tables alone, no torch."""
