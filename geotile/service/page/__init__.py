"""The page of a service: its jobs, their maps, and, with a token, cancel and retry."""
