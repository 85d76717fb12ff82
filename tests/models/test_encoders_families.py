"""Every family of published encoders on tiny weights under their authors' names, against forward passes by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from stimage_qupath.models.encoder_cards import registered_encoders
from stimage_qupath.models.foundation import build_network, open_registered
from stimage_qupath.results import never_cancelled

CPU = torch.device("cpu")
REGISTRY = registered_encoders()
WIDTH, HEADS, DEPTH = 24, 2, 2
VITS = [name for name, entry in REGISTRY.items() if entry.family == "vit"]


def tiny(name, grid=2):
    """Shrink an entry; whatever makes it what it is (registers, SwiGLU, pooling, ...) stays."""
    entry = REGISTRY[name]
    patch = int(entry.network.get("patch_size") or entry.architecture.split("patch")[1].split("_")[0])
    size = grid * patch
    network = dict(entry.network) | {"img_size": size, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    width = 2 * WIDTH if entry.pooling == "class+mean" else WIDTH
    return dataclasses.replace(entry, tile_px=size, width=width, network=network), patch


def random_like(state, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(t.shape, generator=generator) * 0.3 for key, t in state.items()}


def write(folder, entry, state):
    """Lay weights out as the hub's snapshot."""
    folder.mkdir(exist_ok=True)
    name = entry.files[0]
    if name.endswith(".safetensors"):
        save_file({k: t.contiguous() for k, t in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    return str(folder)


def encode(encoder, seed=1):
    """Return an encoder's features of one tile, and the tile as a network sees it by the card's numbers."""
    card = encoder.card
    side = card.tile_px
    image = np.random.default_rng(seed).integers(0, 256, (side + 9, side + 7, 3), dtype=np.uint8)
    centre = np.array([[side / 2 + 3, side / 2 + 5]])
    found = encoder.encode(image, centre, device=CPU, batch_size=1, cancelled=never_cancelled)
    tile = image[5 : 5 + side, 3 : 3 + side].astype(np.float64) / 255
    tile = (tile - np.array(card.mean)) / np.array(card.std)
    return found[0], torch.tensor(tile, dtype=torch.float32).permute(2, 0, 1)[None]


def norm(x, state, name, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def linear(x, state, name):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def attention(q, k, v, heads):
    """Softmax of scaled products, head by head, in a plain loop."""
    parts = []
    for q_h, k_h, v_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        parts.append((q_h @ k_h.transpose(-2, -1) / q_h.shape[-1] ** 0.5).softmax(-1) @ v_h)
    return torch.cat(parts, -1)


def patches_of(x, weight, bias, patch):
    return F.conv2d(x, weight, bias, stride=patch).flatten(2).transpose(1, 2)


def swiglu(x, state, first, second):
    gate, value = linear(x, state, first).chunk(2, -1)
    return linear(F.silu(gate) * value, state, second)


def timm_tokens(state, x, patch, entry):
    """Forward pass of a vision transformer under timm's names, written down from its description."""
    tokens = patches_of(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], patch)
    prefix = [state["cls_token"]] + ([state["reg_token"]] if "reg_token" in state else [])
    prefix = torch.cat(prefix, 1)
    if state["pos_embed"].shape[1] == tokens.shape[1]:
        tokens = torch.cat([prefix, tokens + state["pos_embed"]], 1)
    else:
        tokens = torch.cat([prefix, tokens], 1) + state["pos_embed"]
    for b in range(DEPTH):
        block = {k.removeprefix(f"blocks.{b}."): t for k, t in state.items() if k.startswith(f"blocks.{b}.")}
        q, k, v = linear(norm(tokens, block, "norm1"), block, "attn.qkv").chunk(3, -1)
        tokens = tokens + linear(attention(q, k, v, HEADS), block, "attn.proj") * block.get("ls1.gamma", 1.0)
        hidden = norm(tokens, block, "norm2")
        if entry.network.get("mlp_layer") == "swiglu" or "giant_patch14_" in entry.architecture:
            hidden = swiglu(hidden, block, "mlp.fc1", "mlp.fc2")
        else:
            hidden = linear(F.gelu(linear(hidden, block, "mlp.fc1")), block, "mlp.fc2")
        tokens = tokens + hidden * block.get("ls2.gamma", 1.0)
    return norm(tokens, state, "norm")


def transformers_tokens(state, x, patch, *, eps=1e-6):
    """Forward pass of transformers' ViTModel and Dinov2Model (with or without registers), from its description."""
    head = "embeddings.patch_embeddings.projection"
    tokens = patches_of(x, state[f"{head}.weight"], state[f"{head}.bias"], patch)
    tokens = torch.cat([state["embeddings.cls_token"], tokens], 1) + state["embeddings.position_embeddings"]
    if "embeddings.register_tokens" in state:
        tokens = torch.cat([tokens[:, :1], state["embeddings.register_tokens"], tokens[:, 1:]], 1)
    for b in range(DEPTH):
        name = f"encoder.layer.{b}."
        block = {k.removeprefix(name): t for k, t in state.items() if k.startswith(name)}
        dino = "norm1.weight" in block
        first, second = ("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after")
        hidden = norm(tokens, block, first, eps)
        parts = [linear(hidden, block, f"attention.attention.{part}") for part in ("query", "key", "value")]
        hidden = linear(attention(*parts, HEADS), block, "attention.output.dense")
        tokens = tokens + hidden * block.get("layer_scale1.lambda1", 1.0)
        hidden = norm(tokens, block, second, eps)
        if "mlp.weights_in.weight" in block:
            hidden = swiglu(hidden, block, "mlp.weights_in", "mlp.weights_out")
        elif dino:
            hidden = linear(F.gelu(linear(hidden, block, "mlp.fc1")), block, "mlp.fc2")
        else:
            hidden = linear(F.gelu(linear(hidden, block, "intermediate.dense")), block, "output.dense")
        tokens = tokens + hidden * block.get("layer_scale2.lambda1", 1.0)
    return norm(tokens, state, "layernorm", eps)


def pooled(tokens, entry, prefix):
    """Return the class token, and where the card says so the mean of the patches beside it."""
    if entry.pooling == "class":
        return tokens[0, 0]
    return torch.cat([tokens[0, 0], tokens[0, prefix:].mean(0)])


@pytest.mark.parametrize("name", VITS)
def test_a_vision_transformer_under_timms_names(name, tmp_path):
    entry, patch = tiny(name)
    state = random_like(build_network(entry).state_dict())
    encoder = open_registered(entry, weights=write(tmp_path / "hub", entry, state))
    found, tile = encode(encoder)
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    expected = pooled(timm_tokens(state, tile, patch, entry), entry, 1 + registers)
    assert found.shape == (entry.width,)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_virchow2_leaves_its_four_registers_out_of_the_mean(tmp_path):
    entry, patch = tiny("virchow2")
    state = random_like(build_network(entry).state_dict())
    encoder = open_registered(entry, weights=write(tmp_path / "hub", entry, state))
    found, tile = encode(encoder)
    tokens = timm_tokens(state, tile, patch, entry)[0]
    assert len(tokens) == 1 + 4 + 4
    np.testing.assert_allclose(found[:WIDTH], tokens[0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[WIDTH:], tokens[1 + 4 :].mean(0).numpy(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[WIDTH:], tokens[1:].mean(0).numpy(), rtol=1e-2)


def transformers_state(entry, patch, *, dino, registers=0, hidden=64, glu=False, grid=2):
    """Make random weights under the names of transformers' ``ViTModel`` or ``Dinov2Model``."""
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.position_embeddings": (1, grid**2 + 1, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    shapes |= {"embeddings.mask_token": (1, WIDTH)} if dino else {"pooler.dense.weight": (WIDTH, WIDTH)}
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, WIDTH)
    for b in range(DEPTH):
        names = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        names["attention.output.dense"] = (WIDTH, WIDTH)
        if glu:
            names |= {"mlp.weights_in": (2 * hidden, WIDTH), "mlp.weights_out": (WIDTH, hidden)}
        elif dino:
            names |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
        else:
            names |= {"intermediate.dense": (4 * WIDTH, WIDTH), "output.dense": (WIDTH, 4 * WIDTH)}
        for norm_name in ("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after"):
            names[norm_name] = (WIDTH,)
        for name, shape in names.items():
            shapes[f"encoder.layer.{b}.{name}.weight"] = shape
            shapes[f"encoder.layer.{b}.{name}.bias"] = shape[:1]
        if dino:
            shapes[f"encoder.layer.{b}.layer_scale1.lambda1"] = (WIDTH,)
            shapes[f"encoder.layer.{b}.layer_scale2.lambda1"] = (WIDTH,)
    return random_like({name: torch.empty(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("phikon", {"dino": False}),
        ("phikon-v2", {"dino": True}),
        ("midnight", {"dino": True, "glu": True}),
        ("hibou-b", {"dino": True, "glu": True, "registers": 4}),
        ("hibou-l", {"dino": True, "glu": True, "registers": 4}),
    ],
)
def test_a_vision_transformer_under_the_names_of_transformers(name, layout, tmp_path):
    entry, patch = tiny(name)
    state = transformers_state(entry, patch, **layout)
    encoder = open_registered(entry, weights=write(tmp_path / "hub", entry, state))
    found, tile = encode(encoder)
    tokens = transformers_tokens(state, tile, patch)
    expected = pooled(tokens, entry, 1 + layout.get("registers", 0))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_positions_of_another_grid_are_resampled_as_transformers_does(tmp_path):
    entry, patch = tiny("midnight")
    state = transformers_state(entry, patch, dino=True, glu=True, grid=5)
    encoder = open_registered(entry, weights=write(tmp_path / "hub", entry, state))
    stored = state["embeddings.position_embeddings"]
    grid = stored[:, 1:].reshape(1, 5, 5, WIDTH).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(2, 2), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    state["embeddings.position_embeddings"] = torch.cat([stored[:, :1], grid.reshape(1, 4, WIDTH)], 1)
    found, tile = encode(encoder)
    expected = pooled(transformers_tokens(state, tile, patch), entry, 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_dinov2s_own_names_give_the_same_features(tmp_path):
    entry, patch = tiny("hibou-b")
    state = transformers_state(entry, patch, dino=True, glu=True, registers=4)
    own = {}
    for key, tensor in state.items():
        new = key.replace("embeddings.patch_embeddings.projection", "patch_embed.proj").replace("layernorm", "norm")
        new = new.replace("embeddings.position_embeddings", "pos_embed").replace("embeddings.", "")
        new = new.replace("encoder.layer.", "blocks.").replace("attention.output.dense", "attn.proj")
        new = new.replace("weights_in", "w12").replace("weights_out", "w3")
        new = new.replace("layer_scale1.lambda1", "ls1.gamma").replace("layer_scale2.lambda1", "ls2.gamma")
        own[new] = tensor
    for b in range(DEPTH):
        for kind in ("weight", "bias"):
            parts = [own.pop(f"blocks.{b}.attention.attention.{part}.{kind}") for part in ("query", "key", "value")]
            own[f"blocks.{b}.attn.qkv.{kind}"] = torch.cat(parts)
    path = tmp_path / "hibou.pth"
    torch.save({"teacher": {f"backbone.{key}": t for key, t in own.items()}}, path)
    one = open_registered(entry, weights=str(path))
    other = open_registered(entry, weights=write(tmp_path / "hub", entry, state))
    np.testing.assert_array_equal(encode(one)[0], encode(other)[0])
    assert one.card.weights_sha256 == other.card.weights_sha256


def test_lunits_checkpoint_as_dino_wrote_it(tmp_path):
    entry, patch = tiny("lunit-vits8")
    state = random_like(build_network(entry).state_dict())
    wrapped = {f"module.backbone.{key}": t for key, t in state.items()} | {"module.head.mlp.0.weight": torch.ones(3, 3)}
    path = tmp_path / "dino_vit_small_patch8_ep200.torch"
    torch.save({"teacher": wrapped, "epoch": 200}, path)
    found, tile = encode(open_registered(entry, weights=str(path)))
    np.testing.assert_allclose(found, timm_tokens(state, tile, patch, entry)[0, 0].numpy(), rtol=1e-4, atol=1e-5)


def tiny_conch(name):
    entry, patch = tiny(name)
    return dataclasses.replace(entry, width=16, network={**entry.network, "pooler_dim": 16, "pooler_heads": 2}), patch


def test_conch_pools_all_tokens_by_one_query(tmp_path):
    entry, patch = tiny_conch("conch")
    own = random_like(build_network(entry).state_dict())
    whole = {f"visual.{key}": t for key, t in own.items()}
    aside = ("visual.proj_contrast", "visual.attn_pool_caption.query", "text.positional_embedding", "logit_scale")
    whole |= {key: torch.ones(2, 2) for key in aside}
    encoder = open_registered(entry, weights=write(tmp_path / "hub", entry, whole))
    found, tile = encode(encoder)
    trunk = {k.removeprefix("trunk."): t for k, t in own.items() if k.startswith("trunk.")}
    pool = {k.removeprefix("attn_pool_contrast."): t for k, t in own.items() if k.startswith("attn_pool_contrast.")}
    keys = norm(timm_tokens(trunk, tile, patch, entry), pool, "ln_k", 1e-5)
    query = norm(pool["query"], pool, "ln_q", 1e-5)[None]
    b_q, b_k, b_v = pool["attn.in_proj_bias"].chunk(3)
    q = F.linear(query, pool["attn.q_proj_weight"], b_q)
    k, v = F.linear(keys, pool["attn.k_proj_weight"], b_k), F.linear(keys, pool["attn.v_proj_weight"], b_v)
    expected = norm(linear(attention(q, k, v, 2), pool, "attn.out_proj"), own, "ln_contrast", 1e-5)
    np.testing.assert_allclose(found, expected[0, 0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stored_grid", [14, 2, 6])
def test_conch_15_interpolates_positions_from_a_grid_of_fourteen(stored_grid, tmp_path):
    entry, patch = tiny_conch("conch-1.5")
    own = random_like(build_network(entry).state_dict())
    stored = torch.randn(1, 1 + stored_grid**2, WIDTH, generator=torch.Generator().manual_seed(3))
    encoder = open_registered(entry, weights=write(tmp_path / "hub", entry, own | {"trunk.pos_embed": stored}))
    grid = stored[:, 1:].reshape(1, stored_grid, stored_grid, WIDTH).permute(0, 3, 1, 2)
    if stored_grid != 14:
        grid = F.interpolate(grid, size=(14, 14), mode="bilinear", align_corners=False)
    grid = F.interpolate(grid, scale_factor=(2.1 / 14, 2.1 / 14), mode="bicubic").permute(0, 2, 3, 1)
    trunk = {k.removeprefix("trunk."): t for k, t in own.items() if k.startswith("trunk.")}
    trunk["pos_embed"] = torch.cat([stored[:, :1], grid.reshape(1, 4, WIDTH)], 1)
    pool = {k.removeprefix("attn_pool_contrast."): t for k, t in own.items() if k.startswith("attn_pool_contrast.")}
    found, tile = encode(encoder)
    k, v = linear(norm(timm_tokens(trunk, tile, patch, entry), pool, "ln_k", 1e-5), pool, "to_kv").chunk(2, -1)
    q = linear(norm(pool["query"], pool, "ln_q", 1e-5)[None], pool, "to_q")
    expected = norm(linear(attention(q, k, v, 2), pool, "to_out"), own, "ln_contrast", 1e-5)
    np.testing.assert_allclose(found, expected[0, 0].numpy(), rtol=1e-4, atol=1e-5)


def swin_block(x, block, heads, shift, window=7):
    """One block of Swin on (row, column, width), windows cut and masked in plain loops."""
    side, width = x.shape[0], x.shape[-1]
    hidden = torch.roll(norm(x, block, "norm1", 1e-5), (-shift, -shift), (0, 1))
    step = torch.arange(window)
    rows, columns = (i.flatten() for i in torch.meshgrid(step, step, indexing="ij"))
    table = block["attn.relative_position_bias_table"]
    bias = table[(rows[:, None] - rows + window - 1) * (2 * window - 1) + columns[:, None] - columns + window - 1]
    region = torch.bucketize(torch.arange(side), torch.tensor([side - window, side - shift]), right=True)
    region = torch.zeros(side, dtype=torch.long) if shift == 0 else region
    out = torch.empty_like(hidden)
    for top in range(0, side, window):
        for left in range(0, side, window):
            box = (slice(top, top + window), slice(left, left + window))
            q, k, v = linear(hidden[box].reshape(-1, width), block, "attn.qkv").chunk(3, -1)
            here = region[top + rows] * 3 + region[left + columns]
            mask = torch.where(here[:, None] == here, 0.0, -100.0)
            parts = []
            for h, (q_h, k_h, v_h) in enumerate(zip(*(p.chunk(heads, -1) for p in (q, k, v)), strict=True)):
                parts.append((q_h @ k_h.T / q_h.shape[-1] ** 0.5 + bias[..., h] + mask).softmax(-1) @ v_h)
            out[box] = linear(torch.cat(parts, -1), block, "attn.proj").reshape(window, window, width)
    x = x + torch.roll(out, (shift, shift), (0, 1))
    return x + linear(F.gelu(linear(norm(x, block, "norm2", 1e-5), block, "mlp.fc1")), block, "mlp.fc2")


def ctranspath_features(state, x):
    """Forward pass of CTransPath of two stages under the names of its checkpoint."""
    for conv, batch_norm in (("0", "1"), ("3", "4")):
        x = F.conv2d(x, state[f"patch_embed.proj.{conv}.weight"], stride=2, padding=1)
        mean, variance, weight, bias = (
            state[f"patch_embed.proj.{batch_norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.relu(F.batch_norm(x, mean, variance, weight, bias))
    x = F.conv2d(x, state["patch_embed.proj.6.weight"], state["patch_embed.proj.6.bias"])[0].permute(1, 2, 0)
    x = norm(x, state, "patch_embed.norm", 1e-5)
    for stage, heads in enumerate((1, 2)):
        for b in range(2):
            name = f"layers.{stage}.blocks.{b}."
            block = {k.removeprefix(name): t for k, t in state.items() if k.startswith(name)}
            x = swin_block(x, block, heads, shift=3 if b == 1 and x.shape[0] > 7 else 0)
        if stage == 0:
            quarters = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
            merged = norm(torch.cat(quarters, -1), state, "layers.0.downsample.norm", 1e-5)
            x = linear(merged, state, "layers.0.downsample.reduction")
    return norm(x, state, "norm", 1e-5).mean((0, 1))


def test_ctranspath_from_its_own_checkpoint(tmp_path):
    network = {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
    entry = dataclasses.replace(REGISTRY["ctranspath"], tile_px=56, width=32, network=network)
    own = random_like(build_network(entry).state_dict())
    state = {key.replace("layers.1.downsample", "layers.0.downsample"): t for key, t in own.items()}
    for key in state:
        if key.endswith("running_var"):
            state[key] = state[key].abs() + 0.5
    stored = {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")}
    stored |= {"layers.0.blocks.1.attn_mask": torch.zeros(4, 49, 49), "head.weight": torch.ones(2, 32)}
    stored["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    path = tmp_path / "ctranspath.pth"
    torch.save({"model": stored}, path)
    found, tile = encode(open_registered(entry, weights=str(path)))
    np.testing.assert_allclose(found, ctranspath_features(state, tile).numpy(), rtol=1e-4, atol=1e-5)


def test_a_convolutional_network_without_its_classifier(tmp_path):
    entry = dataclasses.replace(REGISTRY["mobilenetv2"], tile_px=64)
    torch.manual_seed(0)
    whole = timm.create_model("mobilenetv2_100", pretrained=False).eval()
    encoder = open_registered(entry, weights=write(tmp_path / "hub", entry, whole.state_dict()))
    found, tile = encode(encoder)
    with torch.inference_mode():
        expected = whole.forward_head(whole.forward_features(tile), pre_logits=True)[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
