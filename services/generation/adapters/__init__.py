"""Answer endpoints: the embedded extractive one, OpenAI-compatible servers, and a scripted one for tests."""
