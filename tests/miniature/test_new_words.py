from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamfusion.miniature.captions import with_article
from dreamfusion.miniature.lexicon import Lexicon
from dreamfusion.miniature.training.new_words import phrases_of, place_new_words, placed

WORDS = Lexicon(
    "test",
    {
        "duck": ("duck",),
        "car": ("car", "auto"),
        "sports car": ("sports car",),
        "mallard": ("mallard",),
        "race track": ("race track", "sports track"),
    },
    {},
    {},
)
ORDER = ["race", "car", "mallard", "duck", "auto", "sports", "track"]
VOCAB = {f"{word}</w>": i for i, word in enumerate(ORDER)}
KNOWN = {"duck</w>": 0, "car</w>": 1, "auto</w>": 2}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def features(texts: Sequence[str]) -> Tensor:
    """What a CLIP would say: ducks here, cars there."""
    where = {"duck": (1.0, 0.0), "mallard": (0.9, 0.1), "car": (0.0, 1.0), "auto": (0.1, 0.9)}
    rows = []
    for text in texts:
        word = text.split()[-1]
        assert text == with_article(text.split(" ", 1)[1])
        rows.append(list(where.get(word, (-0.5, -0.5))))
    return torch.tensor(rows)


def test_a_word_belongs_to_the_nouns_that_say_it_and_to_itself_first() -> None:
    assert phrases_of(WORDS) == {
        "duck": ["duck"],
        "car": ["car"],
        "auto": ["auto"],
        "sports": ["sports car", "sports track"],
        "mallard": ["mallard"],
        "race": ["race track"],
        "track": ["race track", "sports track"],
    }


def test_new_words_lie_as_far_out_as_known_ones_and_beside_their_like() -> None:
    drawn = torch.randn(40, 8, generator=generator())
    known = 5.0 + drawn @ torch.randn(8, 16, generator=generator())
    near = drawn[:5] + 0.05 * torch.randn(5, 8, generator=generator())
    # What all features have in common says nothing.
    made = placed(known, drawn + 3.0, near + 3.0, generator())
    distances = (made - known.mean(0)).norm(dim=1)
    torch.testing.assert_close(distances, (known - known.mean(0)).norm(dim=1).mean().expand(5))
    alike = F.normalize(made - known.mean(0), dim=1) @ F.normalize(known - known.mean(0), dim=1).T
    assert alike.argmax(1).tolist() == [0, 1, 2, 3, 4]
    # The same features twice: the same place. Others: another one, also where no known word tells them apart.
    flat = torch.zeros(3, 8)
    flat[:, 0] = torch.tensor([1.0, 2.0, 3.0])
    apart = placed(torch.randn(3, 16, generator=generator()), flat, torch.eye(8)[[5, 6, 5]], generator())
    assert torch.equal(apart[0], apart[2]) and (apart[0] - apart[1]).norm() > 0.5


def test_only_unknown_words_of_nouns_are_placed() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(9, 16)
    before = embedding.weight.detach().clone()
    assert place_new_words(embedding, VOCAB, KNOWN, WORDS, features, generator()) == 4
    moved = (embedding.weight.detach() != before).any(1)
    assert moved.tolist() == [word in ("race", "mallard", "sports", "track") for word in [*ORDER, "", ""]]
    after = embedding.weight.detach() - before[[1, 3, 4]].mean(0)
    ducks = F.cosine_similarity(after[2], after[3], dim=0)
    assert ducks > 0.4 and ducks > F.cosine_similarity(after[2], after[1], dim=0) + 0.3
    assert place_new_words(embedding, VOCAB, VOCAB, WORDS, features, generator()) == 0
