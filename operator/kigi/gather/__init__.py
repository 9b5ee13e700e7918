"""Views: what each decision needs, read from the mirror without a request to the API server."""
