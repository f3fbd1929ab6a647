"""Charts and pages, each one HTML file that opens anywhere."""
