"""The recordings and the model of the integration tests."""

from tests.integration.conftest import model, questions

__all__ = ["model", "questions"]
