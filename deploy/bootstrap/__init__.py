"""The set-up of a checkout, with nothing but the standard library. Run by `deploy/setup.py`."""
