"""3D RoIAlign: our backends beside grid_sample and an 8-neighbour gather, with a measured copy as the floor.

    python benchmarks/roi_align.py [--quick]

On a GPU the whole grid of shapes, peak memory and a picture of time against boxes; on a CPU the shapes a CPU meets.
--quick: only the two shapes that the project's targets name. Writes roi_align_DEVICE.json, .md and .png to results/.
"""

import argparse
import math
import statistics
import time

import matplotlib
import torch
from common import RESULTS, provenance
from torch.nn import functional as F
from tqdm import tqdm

from weakseg_lib import roi_align_3d
from weakseg_lib.data.files import write_json
from weakseg_lib.ops.roi_align_reference import Geometry
from weakseg_lib.ops.roi_align_separable import box_side

matplotlib.use("Agg")
MAP = (16, 40, 40)
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def cases(quick: bool):
    """(channels, boxes, bins, ratio, dtype, layout): from the shape the targets name along one axis at a time."""
    targets = [
        (64, boxes, 14, ratio, torch.float32) for boxes in ((32, 512) if GPU else (32,)) for ratio in (1, 2)
    ]
    yield from ((*case, "channels last") for case in targets)
    if not quick:
        yield from ((*case, "contiguous") for case in targets)
        yield from ((*case, "channels last") for case in more_cases())


def more_cases():
    yield from (
        (64, boxes, 14, ratio, torch.float32) for boxes in (8, 128 if GPU else 64) for ratio in (1, 2)
    )
    yield from ((64, 32, bins, 2, torch.float32) for bins in ((7, 28) if GPU else (7,)))
    yield (32, 32, 14, 2, torch.float32)
    if GPU:
        yield (128, 32, 14, 2, torch.float32)
        for dtype in (torch.float16, torch.bfloat16):
            yield from ((64, boxes, 14, 2, dtype) for boxes in (32, 512))


def inputs(channels, boxes, dtype, layout):
    """Two maps and boxes as large as cells are on them, 5 to 14 x 8 to 20 x 8 to 20 voxels, all inside."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, channels, *MAP, generator=random).to(dtype)
    sides = torch.rand(boxes, 3, generator=random) * torch.tensor([9.0, 12, 12]) + torch.tensor([5.0, 8, 8])
    start = torch.rand(boxes, 3, generator=random) * (torch.tensor(MAP) - sides)
    rois = torch.cat([torch.arange(boxes)[:, None] % 2, start, start + sides], 1)
    if layout == "channels last":
        features = features.contiguous(memory_format=torch.channels_last_3d)
    features = features.to(DEVICE)
    return features.requires_grad_(), rois.to(DEVICE)


def ours(backend):
    def run(features, rois, bins, ratio):
        return roi_align_3d(features, rois, bins, sampling_ratio=ratio, backend=backend)

    return run


def positions(rois, bins, ratio):
    """Coordinates (3, K, bins * ratio) of the samples on each axis."""
    geometry = Geometry((bins,) * 3, (1.0,) * 3, (ratio,) * 3, True)
    steps = (torch.arange(bins * ratio, device=rois.device) + 0.5) / (bins * ratio)
    sides = [box_side(rois, axis, geometry) for axis in range(3)]
    return torch.stack([start[:, None] + length[:, None] * steps for start, length in sides])


def pooled(samples, bins, ratio):
    """(K, C, bins * ratio, ...) -> the mean of each bin."""
    bin = (bins, ratio)
    return (
        samples.unflatten(4, bin).unflatten(3, bin).unflatten(2, bin).mean((3, 5, 7))
        if ratio > 1
        else samples
    )


def by_grid_sample(features, rois, bins, ratio):
    """What is usually recommended: `grid_sample` on the points of all boxes of an image."""
    out = features.new_empty(len(rois), features.shape[1], bins, bins, bins)
    extent = torch.tensor(MAP, device=rois.device).view(3, 1, 1)
    where = 2 * positions(rois, bins, ratio) / (extent - 1) - 1
    n = bins * ratio
    for image in range(len(features)):
        mine = rois[:, 0] == image
        z, y, x = where[:, mine]
        k = z.shape[0]
        axes = (x[:, None, None, :], y[:, None, :, None], z[:, :, None, None])
        grid = torch.stack([a.expand(k, n, n, n) for a in axes], -1).reshape(1, k * n, n, n, 3)
        found = F.grid_sample(
            features[image : image + 1], grid.to(features.dtype), padding_mode="border", align_corners=True
        )
        out[mine] = pooled(found.reshape(-1, k, n, n, n).transpose(0, 1), bins, ratio)
    return out


def by_gather(features, rois, bins, ratio):
    """Eight lookups a sample in plain torch, the definition taken at its word."""
    extent = torch.tensor(MAP, device=rois.device).view(3, 1, 1)
    where = torch.minimum(positions(rois, bins, ratio).clamp(min=0), extent - 1)
    low = where.floor()
    high = torch.minimum(low + 1, extent - 1)
    weights, indices = ((low + 1 - where, where - low), (low.long(), high.long()))
    rows = features.permute(0, 2, 3, 4, 1)
    image = rois[:, 0].long()[:, None, None, None]
    total = 0
    for corner in range(8):
        up = (corner >> 2, corner >> 1 & 1, corner & 1)
        shapes = ((..., None, None), (slice(None), None, slice(None), None), (slice(None), None, None))
        index = [indices[u][axis][shape] for axis, (u, shape) in enumerate(zip(up, shapes, strict=True))]
        weight = math.prod(
            weights[u][axis][shape] for axis, (u, shape) in enumerate(zip(up, shapes, strict=True))
        )
        total = total + rows[(image, *index)] * weight[..., None].to(features.dtype)
    return pooled(total.permute(0, 4, 1, 2, 3), bins, ratio)


PEERS = {"grid_sample": by_grid_sample, "gather": by_gather}
WAYS = {"separable": ours("separable")} | PEERS
if GPU:
    WAYS = {"triton": ours("triton"), "triton_direct": ours("triton_direct")} | WAYS


def milliseconds(work, recorded=False) -> float:
    """Median time. On a GPU with its cache emptied before each run: by events, which at a tenth of a millisecond also
    see Python's part, or `recorded` as a CUDA graph, which do not."""
    if recorded:
        try:
            return milliseconds_of_graph(work)
        except RuntimeError as problem:
            print(f"not recorded, timed by events: {str(problem).splitlines()[0]}")
    if GPU:
        import triton

        return triton.testing.do_bench(work, warmup=50, rep=200, return_mode="median")
    work()
    times, end = [], time.perf_counter() + 2
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def milliseconds_of_graph(work, repeats=20) -> float:
    """Time of one `work` among `repeats` in a CUDA graph that empties the cache between them, less that time."""
    cache = torch.empty(2**28, dtype=torch.int8, device=DEVICE)

    def record(steps):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                for step in steps:
                    step()
        return milliseconds(graph.replay)

    for _ in range(3):
        work()  # compiled, and its memory known, before it is recorded
    torch.cuda.synchronize()
    return (record([cache.zero_, work]) - record([cache.zero_])) / repeats


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy much larger than any cache."""
    source = torch.empty(2**28 if GPU else 2**26, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (milliseconds(lambda: target.copy_(source)) / 1000)


def measure(way, features, rois, bins, ratio, recorded) -> dict | None:
    """Times of the forward pass, of the gradient alone, and of both; on a GPU also the memory that both take. None: it
    does not fit. `recorded`: as CUDA graphs, for what never waits for the device."""

    def forward():
        with torch.no_grad():
            return way(features, rois, bins, ratio)

    def both():
        torch.autograd.grad(way(features, rois, bins, ratio), [features], grad)

    try:
        grad, found = torch.ones_like(forward()), {}
        if GPU:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            both()
            found["peak_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        found |= {"forward_ms": milliseconds(forward, recorded), "both_ms": milliseconds(both, recorded)}
        if recorded:  # a graph takes no gradient of what was computed outside of it
            found["backward_ms"] = found["both_ms"] - found["forward_ms"]
        else:
            out = way(features, rois, bins, ratio)
            found["backward_ms"] = milliseconds(
                lambda: torch.autograd.grad(out, [features], grad, retain_graph=True)
            )
    except torch.OutOfMemoryError:
        return None
    return {k: round(v, 4) for k, v in found.items()}


def run(quick: bool, bandwidth: float, save) -> list[dict]:
    print(f"a copy moves {bandwidth / 1e9:.0f} GB/s")
    rows = []
    for channels, boxes, bins, ratio, dtype, layout in tqdm(list(cases(quick)), desc="shapes"):
        features, rois = inputs(channels, boxes, dtype, layout)
        moved = (features.numel() + boxes * channels * bins**3) * features.element_size()
        row = {"channels": channels, "boxes": boxes, "bins": bins, "ratio": ratio, "dtype": str(dtype)[6:]}
        row["layout"] = layout
        row["bytes_moved"] = moved
        row["floor_ms"] = round(1000 * moved / bandwidth, 4)  # backward moves as much as forward
        wanted = WAYS["separable"](features, rois, bins, ratio).detach()
        for name, way in WAYS.items():
            row[name] = measure(way, features, rois, bins, ratio, name.startswith("triton"))
            if row[name]:
                # Half precision: grid_sample and the gather also round coordinates or sums, ours does not.
                difference = (way(features, rois, bins, ratio).detach() - wanted).abs().max().item()
                row[name]["largest_difference"] = float(f"{difference:.2g}")
                assert difference < (1e-3 if dtype == torch.float32 else 0.05) or name in PEERS, name
        rows.append(row)
        save(rows)
    return rows


def table(rows) -> str:
    """Milliseconds: forward / gradient / both."""
    head = ["channels", "boxes", "bins", "ratio", "dtype", "layout", "floor_ms", *WAYS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [str(row[k]) for k in head[:7]]
        for found in (row[w] for w in WAYS):
            times = found and (found["forward_ms"], found["backward_ms"], found["both_ms"])
            cells.append(" / ".join(f"{t:.3g}" for t in times) if times else "out of memory")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(rows, path, device: str):
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    shown = {"channels": 64, "bins": 14, "ratio": 2, "dtype": "float32", "layout": "channels last"}
    chosen = [row for row in rows if row.items() >= shown.items()]
    chosen.sort(key=lambda r: r["boxes"])
    boxes = [r["boxes"] for r in chosen]
    for axis, key, times in zip(axes, ("forward_ms", "both_ms"), (1, 2), strict=True):
        for way in WAYS:
            axis.loglog(boxes, [r[way][key] if r[way] else math.nan for r in chosen], "o-", label=way)
        axis.loglog(boxes, [times * r["floor_ms"] for r in chosen], "k--", label="copy of the same bytes")
        axis.set(xlabel="boxes", title={"forward_ms": "forward", "both_ms": "forward and backward"}[key])
        axis.set_xticks(boxes, boxes)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(f"64 channels, 14³ bins, 2³ samples a bin, float32, channels last, {device}")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    name = "roi_align_" + (torch.cuda.get_device_name().replace(" ", "_") if GPU else "cpu")
    bandwidth = copy_bandwidth()
    record = provenance(0) | {"map": MAP, "copy_gb_per_s": round(bandwidth / 1e9, 1)}
    if GPU:
        import triton

        record["triton"] = triton.__version__

    def save(rows):
        write_json(RESULTS / f"{name}.json", record | {"milliseconds": rows})
        text = f"{record['device']}, {record['cpu']}, torch {record['torch']}; `{record['command']}`\n\n"
        text += "Milliseconds, forward / gradient / both; floor: the bytes of one of the first at a copy's speed.\n\n"
        (RESULTS / f"{name}.md").write_text(text + table(rows) + "\n")

    rows = run(options.quick, bandwidth, save)
    print(table(rows))
    if not options.quick:
        picture(rows, RESULTS / f"{name}.png", record["device"])


if __name__ == "__main__":
    main()
