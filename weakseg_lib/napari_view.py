"""Results as napari shows them. napari itself is not imported: a layer is described by its data, options and kind."""

import numpy as np

from weakseg_lib.export import BOX_COLUMNS, read_result, stacks_of_result


def napari_layers(result, sequence=None, frames=None) -> list[tuple]:
    """Return napari's layers of a result, a list of (data, options, kind): its "layer data tuples".

    result: a folder with maskTTT.tif and boxesTTT.csv. sequence: the images, NAME/01 (or the image, of a result
    of one), or None. frames: only these (numbers, or names of images outside a sequence).

    Each stack gives its image, its labels, and its boxes as rectangles on every slice that they cover, with id
    and score (napari 0.5 or later). All are scaled to micrometres; layers after the first stack's are hidden.

        import napari
        viewer = napari.Viewer()
        for layer in napari_layers("mydata/02_RES", "mydata/02"):
            viewer.add_layer(napari.layers.Layer.create(*layer))

    Raises InputError as `export` does.
    """
    layers = []
    for frame, files in stacks_of_result(result).items():
        if frames is not None and frame not in frames:
            continue
        labels, image, size, table = read_result(frame, files, sequence)
        name = f"t{frame:03d}" if isinstance(frame, int) else frame
        shared = {"scale": size, "units": ("um",) * 3, "visible": not layers}
        if image is not None:
            limits = np.percentile(image, (1, 99.8)).tolist()
            layers.append((image, shared | {"name": name, "contrast_limits": limits}, "image"))
        layers.append((labels, shared | {"name": f"{name} cells"}, "labels"))
        if table is not None:
            layers.append(_boxes(table, shared | {"name": f"{name} boxes"}))
    return layers


def _boxes(table, options):
    boxes = np.stack([table[name] for name in BOX_COLUMNS[1:]], axis=1)
    # napari's voxel i goes from i - 0.5 to i + 0.5, a box's from i to i + 1.
    slices = [np.arange(np.floor(z0), np.ceil(z1)) for z0, z1 in boxes[:, [0, 3]]]
    rectangles = [
        [[z, y, x] for y, x in ((y0, x0), (y0, x1), (y1, x1), (y1, x0))]
        for (_, y0, x0, _, y1, x1), inside in zip(boxes - 0.5, slices, strict=True)
        for z in inside
    ]
    row = np.repeat(np.arange(len(boxes)), [len(inside) for inside in slices])
    features = {"id": table["id"][row], "score": table["score"][row]}
    look = {
        "shape_type": "rectangle",
        "edge_color": "#F0E442",
        "face_color": "transparent",
        "edge_width": 0.3,
    }
    return np.array(rectangles).reshape(-1, 4, 3), options | look | {"features": features}, "shapes"
