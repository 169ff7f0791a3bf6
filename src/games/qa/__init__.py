"""Question answering with tools (ReAct): one agent, a search engine, further tools by configuration."""

from .game import QA
from .questions import FileQuestions
from .tools import AgentTool, Search
from .two_hop import TwoHop

__all__ = ["QA", "AgentTool", "FileQuestions", "Search", "TwoHop"]
