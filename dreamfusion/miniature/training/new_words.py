"""Words that a text tower meets for the first time start near those that a CLIP finds alike.

A trained tower's words are several times as long as freshly drawn ones (here 1.2 to 0.23), its positions too: beside them all
new nouns look the same, and 52,000 pictures later they were 0.33 long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.miniature.captions import with_article
from dreamfusion.miniature.lexicon import Lexicon
from dreamfusion.miniature.training.tokenizer import END_OF_WORD, PIECES

# Of the ridge regression, in units of the features' variance: there are fewer known nouns than dimensions.
RIDGE = 0.3


def phrases_of(words: Lexicon) -> dict[str, list[str]]:
    """For every word of a noun or of its synonyms the nouns that say it; a word that is a noun of its own, that one only."""
    found: dict[str, list[str]] = {}
    for said in (said for synonyms in words.nouns.values() for said in synonyms):
        for word in PIECES.findall(said.lower()):
            found.setdefault(word, []).append(said)
    return {word: [word] if word in said else said for word, said in found.items()}


def placed(
    known: Float[Tensor, "k width"],
    known_features: Float[Tensor, "k d"],
    new_features: Float[Tensor, "n d"],
    generator: torch.Generator,
) -> Float[Tensor, "n width"]:
    """Embeddings of new words, spread around the known ones' mean as those are.

    Half of each, by length, is where a ridge regression from the features puts it, half a random projection of the
    features, which keeps words apart that the few known ones cannot tell.
    """
    mean = known.mean(0)
    spread = (known - mean).norm(dim=1).mean()
    centre, scale = known_features.mean(0), known_features.std()
    seen, unseen = (known_features - centre) / scale, (new_features - centre) / scale
    ridge = RIDGE * len(seen) * torch.eye(seen.shape[1])
    map_to = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ (known - mean))
    own = torch.randn(seen.shape[1], known.shape[1], generator=generator)
    made = F.normalize(unseen @ map_to, dim=1) + F.normalize(unseen @ own, dim=1)
    return mean + spread * F.normalize(made, dim=1)


@torch.no_grad()
def place_new_words(
    embedding: nn.Embedding,
    vocab: dict[str, int],
    known_vocab: dict[str, int],
    words: Lexicon,
    features: Callable[[Sequence[str]], Float[Tensor, "n d"]],
    generator: torch.Generator,
) -> int:
    """Places the rows of all nouns' words that `known_vocab` lacks by a CLIP's `features` of texts; returns how many they are."""
    phrases = phrases_of(words)

    def rows(tokens: Sequence[str]) -> tuple[Tensor, Float[Tensor, "n d"]]:
        texts = [[with_article(said) for said in phrases[token]] for token in tokens]
        flat = features([text for one in texts for text in one]).float().cpu()
        means = [part.mean(0) for part in flat.split([len(one) for one in texts])]
        return torch.tensor([vocab[token + END_OF_WORD] for token in tokens]), torch.stack(means)

    met = [word + END_OF_WORD in known_vocab for word in phrases]
    old = [word for word, known in zip(phrases, met, strict=True) if known]
    new = [word for word, known in zip(phrases, met, strict=True) if not known]
    if not old or not new:
        return 0
    (old_rows, seen), (new_rows, unseen) = rows(old), rows(new)
    embedding.weight[new_rows] = placed(embedding.weight[old_rows], seen, unseen, generator)
    return len(new)
