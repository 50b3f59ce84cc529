"""Conversations for hypothesis to play with."""

from hypothesis import strategies as st

from server.domain.chat import Message, ToolCall

BLANKS = st.sampled_from(["", " ", "\n", "\n\n", " \n \n\t", "\r\n", "\u2003"])
WORDS = st.sampled_from(["word", "Why?", "End. ", "é😀", "=== user ===", "</summary>", "a" * 40, "</text>"])
TEXTS = st.lists(st.one_of(BLANKS, WORDS, st.text(max_size=4)), max_size=60).map("".join)
LONG_TEXTS = st.builds(lambda text, times: text * times, TEXTS, st.integers(1, 80))
ANY_TEXT = st.one_of(
    TEXTS, LONG_TEXTS, st.integers(0, 5000).map("x".__mul__), st.integers(0, 5000).map(" ".__mul__)
)

CALLS = st.lists(st.builds(ToolCall, st.just("look"), st.dictionaries(TEXTS, TEXTS, max_size=1)), max_size=2)
MESSAGES = st.one_of(
    st.builds(
        Message, st.sampled_from(["system", "developer", "user", "user", "assistant", "tool"]), ANY_TEXT
    ),
    st.builds(Message, st.just("assistant"), TEXTS, tool_calls=CALLS.map(tuple)),
)
CHATS = st.lists(MESSAGES, max_size=12)
