"""People and programs whom an issuer of OpenID Connect lets in."""
