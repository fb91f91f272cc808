"""The OpenAI dialects, Chat Completions and Responses, translated both ways."""
