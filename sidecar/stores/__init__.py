"""The stores by the scheme of their URL. A new kind is one file and one line here."""
