"""models.yaml as a frozen catalog."""
