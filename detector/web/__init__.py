"""The web page and its REST API."""
