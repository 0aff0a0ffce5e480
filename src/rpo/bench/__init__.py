"""The laboratory: many jobs into one results folder, on this machine or on many."""
