"""One module a claim; each ends in `CLAIM = Claim(...)`."""
