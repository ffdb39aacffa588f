"""Where bytes come from and go to: local directory, URL and Hub, read and written."""
