"""The inside of the demo's authorization server: one module per duty, put together by `demo.authorization_server`."""
