"""`report.html`: a run on one page that needs no network, written anew whenever there is more."""

REPORT = "report.html"
