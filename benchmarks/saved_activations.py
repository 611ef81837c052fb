"""What the student's backbone keeps for its backward pass, in GiB, by remedy: counted on a compiled graph, nothing is run.

python benchmarks/saved_activations.py --arch vit_base --batch 128
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Node

from dinov3.config.archs import VIT_ARCHS
from dinov3.models.execution import Execution
from dinov3.models.vit import DinoVisionTransformer

Mode = Any  # of checkpointing


def on_gpu(**forms: bool) -> Execution:
    """A form of a model on a GPU, which has kernels for attention in bf16, wherever it is counted."""
    return Execution(**forms, written_out=False)


REMEDIES: list[tuple[str, Mode, Execution]] = [
    ("as it was: fp32 residual", "none", on_gpu()),
    ("bf16 residual", "none", on_gpu(narrow_residual=True)),
    ("bf16 residual, LayerScale folded", "none", on_gpu(narrow_residual=True, fused=True)),
    ("selective, fp32 residual", "selective", on_gpu()),
    ("selective, bf16 residual", "selective", on_gpu(narrow_residual=True)),
    ("selective, bf16 residual, folded", "selective", on_gpu(narrow_residual=True, fused=True)),
]


class Graphs:
    """A backend of torch.compile that keeps the forward and the backward graph and makes no code."""

    def __init__(self) -> None:
        self.forward: GraphModule | None = None
        self.backward: GraphModule | None = None

    def backend(self) -> Any:
        def keep(name: str) -> Any:
            def compiler(graph: GraphModule, _: Sequence[Any]) -> Any:
                setattr(self, name, graph)
                return make_boxed_func(graph.forward)

            return compiler

        return aot_autograd(
            fw_compiler=keep("forward"),
            bw_compiler=keep("backward"),
            partition_fn=min_cut_rematerialization_partition,
        )

    def saved(self) -> list[Tensor]:
        """Activations that go from the forward to the backward graph, one view of each piece of memory; weights and
        crops, its first inputs, are there anyway.
        """
        assert self.forward is not None
        assert self.backward is not None
        taken = {
            n.name for n in self.backward.graph.nodes if n.op == "placeholder" and not n.name.startswith("primals")
        }
        outputs: Any = self.forward.graph.output_node().args[0]
        results = [n for n in outputs if isinstance(n, Node) and n.name in taken]
        tensors = [n.meta["val"] for n in results if isinstance(n.meta["val"], Tensor)]
        return list({t.untyped_storage()._cdata: t for t in tensors}.values())

    def products(self) -> tuple[int, int]:
        """Matrix products of the forward and of the backward graph."""
        assert self.forward is not None
        assert self.backward is not None

        def count(graph: GraphModule) -> int:
            return sum(1 for n in graph.graph.nodes if str(n.target) in ("aten.mm.default", "aten.addmm.default"))

        return count(self.forward), count(self.backward)


def graphs(args: argparse.Namespace, depth: int, mode: Mode, execution: Execution) -> Graphs:
    """Of one packed pass over all crops of a batch through ``depth`` blocks, with drop path, in bf16 autocast."""
    torch._dynamo.reset()
    kept = Graphs()
    model = DinoVisionTransformer(
        **VIT_ARCHS[args.arch] | {"depth": depth},
        img_size=args.global_size,
        layerscale_init=1e-5,
        n_storage_tokens=4,
        drop_path_rate=args.drop_path,
        pos_embed_rope_dtype="fp32",
        mask_k_bias=True,
        device="meta",
    )
    with FakeTensorMode():
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=args.device)))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(buffer.shape, device=args.device))
        model.set_checkpointing(mode)
        model.set_execution(execution)
        crops = [
            torch.empty(n * args.batch, 3, side, side, device=args.device)
            for n, side in ((2, args.global_size), (8, args.local_size))
        ]
        masks = torch.zeros(2 * args.batch, (args.global_size // 16) ** 2, dtype=torch.bool, device=args.device)
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=kept.backend())
        with torch.autocast(args.device, dtype=torch.bfloat16):
            features = compiled(crops, [masks, None], is_training=True)
        sum(f.cls.float().sum() + f.patches.float().sum() for f in features).backward()
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=sorted(VIT_ARCHS), default="vit_base")
    parser.add_argument("--batch", type=int, default=128, help="images")
    parser.add_argument("--global-size", type=int, default=256)
    parser.add_argument("--local-size", type=int, default=112)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="numbers of remedies, with commas")
    parser.add_argument(
        "--largest", type=int, default=0, help="also list so many kinds of tensors that two blocks save"
    )
    args = parser.parse_args()
    chosen = [int(n) for n in args.only.split(",")] if args.only else range(len(REMEDIES))
    for name, mode, execution in (REMEDIES[n] for n in chosen):
        one, two = graphs(args, 1, mode, execution).saved(), (kept := graphs(args, 2, mode, execution)).saved()
        first, both = (sum(t.untyped_storage().nbytes() for t in saved) for saved in (one, two))
        # blocks are alike: each further one saves as much as the second
        total = first + (both - first) * (int(VIT_ARCHS[args.arch]["depth"]) - 1)
        print(f"{args.arch} {name:36s} {total / 2**30:6.2f} GiB; products of 2 blocks {kept.products()}", flush=True)
        kinds = Counter((tuple(t.shape), t.dtype) for t in two)
        size = {(tuple(t.shape), t.dtype): t.untyped_storage().nbytes() / 2**30 for t in two}
        for kind in sorted(kinds, key=lambda k: -kinds[k] * size[k])[: args.largest]:
            print(f"    {kinds[kind]:3d} x {kind[1]} {list(kind[0])}: {kinds[kind] * size[kind]:.2f} GiB")


if __name__ == "__main__":
    main()
