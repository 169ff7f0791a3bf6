"""The table: a web site on which people play matches, take part in studies and watch runs.

Start with `server.py` (the web server and its checks), `part.py` (the contract of a part of the site) and `persons.py`
(people and their tokens).
"""
