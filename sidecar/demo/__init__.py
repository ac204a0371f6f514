"""`sidecar demo`: an authorization server, an API, a legacy application, and the story they tell with the sidecar."""
