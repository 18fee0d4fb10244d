"""What can be set: frozen dataclasses that become command-line options and the JSON of a run. No torch here."""
