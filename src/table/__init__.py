"""The table: people play, and whatever else pages let them do, in the browser.

`server.py` is the web server and its guards, `part.py` what a part of the site is, `persons.py` who a person is.
"""
