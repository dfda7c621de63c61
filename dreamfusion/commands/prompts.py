"""What can be said about a prompt before any model is read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dreamfusion.errors import PromptError, shown
from dreamfusion.progress import notice


def check_prompt(
    prompt: str, hint: str = "say what to make: dreamfusion train 'a peacock on a surfboard'"
) -> str:
    """The prompt with single spaces.

    Args:
        hint: what to do where there is none.

    Raises:
        PromptError: there is nothing in it, or bytes that are no text.
    """
    plain = " ".join(prompt.split())
    if "\0" in plain:
        raise PromptError("the prompt is not text", got=f"a NUL character in {shown(plain)}")
    if not plain:
        raise PromptError("the prompt is empty", hint=hint)
    try:
        # Python keeps bytes that the terminal's encoding does not know as half characters; mostly they are UTF-8.
        return plain.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise PromptError("the prompt is not text", expected="UTF-8", got=ascii(plain)) from None


def tell_unknown_words(prompt: str, *models: str, own: Sequence[str] = ()) -> None:
    """A notice for each word that the miniature never saw, with the nearest it did; nothing for other models.

    Args:
        models: those that read the prompt, diffusion models and CLIPs.
        own: words of textual inversion, which the diffusion model knows.
    """
    if "miniature" not in models:
        return
    from dreamfusion.miniature.vocabulary import unknown_words

    for word in own:
        prompt = re.sub(re.escape(word), " ", prompt, flags=re.IGNORECASE)
    for word, nearest in unknown_words(prompt).items():
        meant = f"; nearest: {', '.join(nearest)}" if nearest else ""
        notice(f"note: the embedded model does not know '{word}'{meant} (all its words: dreamfusion doctor)")
