"""The console: what goes on in a server, for who runs it, in a browser.

`recorder` hears what happens and keeps it within limits, `views` makes JSON of it, `questions` is what one server can
be asked, `merging` makes one answer of several workers', `pages` serves that and the page itself. It knows no protocol,
opens no port and asks for no token: the admin door does (`server/admin.py`).
"""
