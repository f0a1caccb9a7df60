"""Scores, report.json, report.html, and files that are written atomically."""
