"""The report of a results folder: tables, figures, and what became of the paper's claims."""
