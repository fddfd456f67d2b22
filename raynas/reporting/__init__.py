"""What a report says, its figures, and the page that holds them; see raynas/report.py. n: trials that have ended."""
