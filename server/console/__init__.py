"""The console: a page at `/` that chats with the models and shows what the server does."""
