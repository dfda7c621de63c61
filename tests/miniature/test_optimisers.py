from __future__ import annotations

import torch
from torch import nn

from dreamfusion.miniature.training.optimisers import MATCHED_RMS, Muon, is_matrix, orthogonalised


def matrices(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_singular_values_are_driven_towards_one_and_directions_stay() -> None:
    for rows, columns in ((16, 40), (40, 16), (24, 24)):
        given = matrices(5, rows, columns)
        left, values, right = torch.linalg.svd(given, full_matrices=False)
        assert float(values.max() / values.min()) > 3
        found = left.mT @ orthogonalised(given) @ right.mT
        diagonal = found.diagonal(dim1=1, dim2=2)
        strong = values > 0.1 * values.amax(1, keepdim=True)
        assert float(diagonal[strong].min()) > 0.4 and float(diagonal.max()) < 1.2
        torch.testing.assert_close(found, torch.diag_embed(diagonal), atol=1e-4, rtol=0)


def test_each_matrix_is_taken_for_itself() -> None:
    given = matrices(3, 8, 20) * torch.tensor([1.0, 100.0, 1e-3])[:, None, None]
    together = orthogonalised(given)
    for index in range(3):
        torch.testing.assert_close(orthogonalised(given[index : index + 1])[0], together[index])


def test_products_in_bfloat16_give_the_same_directions() -> None:
    given = matrices(3, 16, 40)
    exact, rough = orthogonalised(given), orthogonalised(given, torch.bfloat16)
    assert rough.dtype == torch.float32
    assert float((rough - exact).norm() / exact.norm()) < 0.03
    # bfloat16 leaves its mark, or it was not used.
    assert not torch.equal(rough, exact)


def test_kernels_of_hidden_layers_are_matrices_and_ends_are_not() -> None:
    kernel, gain = nn.Parameter(torch.zeros(4, 4, 3, 3)), nn.Parameter(torch.zeros(4))
    assert is_matrix("unet.mid_block.resnets.0.conv1.weight", kernel)
    assert not is_matrix("unet.mid_block.resnets.0.norm1.weight", gain)
    for end in ("unet.conv_in.weight", "unet.conv_out.weight", "text.embeddings.token_embedding.weight"):
        assert not is_matrix(end, kernel)


def test_the_first_update_has_the_size_of_adams_and_shrinks_the_weights() -> None:
    parameters = [nn.Parameter(matrices(32, 16, 3, 3)), nn.Parameter(matrices(32, 16, 3, 3) + 1.0)]
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = Muon([{"params": parameters, "matrices": True, "weight_decay": 0.1}], lr=0.01)
    for scale, parameter in zip((1.0, 1e4), parameters, strict=True):
        parameter.grad = scale * matrices(32, 16, 3, 3)
    optimizer.step()
    for parameter, was in zip(parameters, before, strict=True):
        moved = parameter.detach() - was * (1.0 - 0.01 * 0.1)
        # Whatever the gradient's size; singular values of 0.4 .. 1.15 in place of 1 make it a little less.
        assert 0.6 * MATCHED_RMS < float(moved.square().mean().sqrt()) / 0.01 < 1.2 * MATCHED_RMS
        assert float((moved * parameter.grad).sum()) < 0  # pyright: ignore[reportOperatorIssue]


def test_momentum_keeps_going_where_the_gradient_is_gone() -> None:
    parameter = nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([{"params": [parameter], "matrices": True}], lr=0.1)
    parameter.grad = matrices(8, 8)
    optimizer.step()
    first = parameter.detach().clone()
    parameter.grad = torch.zeros(8, 8)
    optimizer.step()
    torch.testing.assert_close(parameter.detach() - first, first, atol=1e-3, rtol=1e-2)


def test_other_parameters_move_as_adamw_moves_them() -> None:
    ours, theirs = ([nn.Parameter(matrices(*shape)) for shape in ((7,), (3, 4))] for _ in range(2))
    options = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    mine = Muon([{"params": ours, **options}], lr=0.02)
    reference = torch.optim.AdamW(theirs, **options)
    for step in range(5):
        for first, second in (ours, theirs):
            first.grad = matrices(7) * (step - 2.0)
            # Has none now and then, and counts only the others.
            second.grad = matrices(3, 4) * (step - 1.5) if step % 2 else None
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)
