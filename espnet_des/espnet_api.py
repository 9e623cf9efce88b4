"""What of ESPnet and torch is leaned upon that is not public."""
