"""Exports of V-JEPA: StableHLO, safetensors, Hugging Face folder."""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

from core.export import artifacts
from core.nn.token_order import take
from jepa import model_card, weights
from jepa.encode import make_encode, video_specs
from jepa.model import Encoder, Predictor, grid_of, patchify

ATOL = 1e-4  # of features of unit variance; float32 noise between programs is 1e-5


def make_exports(encoder, predictor, *, use, config: dict) -> dict:
    """Format -> core.method.Export: "stablehlo", "safetensors" and "hf", all in float32.

    A DenseEncoder has a second program, "image"; it has no "hf" (jepa/dense.py).

    Args:
      use: number of the mask token of each mask pattern.
      config: the resolved config, for the card.
    """
    anywhere = {"dtype": jnp.float32, "attention": "plain"}
    encoder, predictor = (m.clone(**anywhere) for m in (encoder, predictor))
    frames, size = config["data"]["frames"], config["data"]["size"]
    clip = {"frames": frames, "rows": size, "cols": size}
    words = {
        "title": model_card.TITLE,
        "what": model_card.WHAT.format(encoder.patch),
        "config": config,
    }
    ours = {
        "network": model_card.NETWORK,
        "inputs": model_card.describe(encoder, **clip),
        **words,
    }
    programs = {"model": (make_encode(encoder), video_specs(**clip))}
    if encoder.patch_of(1) != encoder.patch:  # images have an embedding of their own
        programs["image"] = make_encode(encoder), video_specs(**clip | {"frames": 1})
        ours["inputs"] += model_card.INPUTS_IMAGE

    def stablehlo(state, folder, origin):
        about = {"origin": origin, **ours}
        return artifacts.export_stablehlo(
            folder, programs, state.target, atol=ATOL, **about
        )

    def safetensors(state, folder, origin):
        return artifacts.export_safetensors(folder, state.target, origin=origin, **ours)

    hf = functools.partial(
        export_hf, encoder, predictor, use=use, frames=frames, size=size, words=words
    )
    return {"stablehlo": stablehlo, "safetensors": safetensors, "hf": hf}


def export_hf(
    encoder, predictor, state, folder, origin, *, use, frames, size, words
) -> float:
    """Write a Hugging Face folder of the EMA target and the predictor, and check it.

    What is read back runs beside the live networks; so does transformers' own model if
    torch and transformers are installed. Returns the largest difference of an output;
    raises ValueError if it exceeds ATOL.

    Args:
      use: number of the mask token of each mask pattern.
      frames, size: of a training clip, in frames and pixels.
      words: title, what and config of the model card.
    """
    params = {"encoder": state.target, "predictor": state.params["predictor"]}
    # transformers takes token 1 % n. A token of all patterns is copied into every slot;
    # with one per pattern the slots stay, and transformers takes the second.
    shared = use[0] if len(set(use)) == 1 else None
    card = artifacts.card(
        network=model_card.HF_NETWORK,
        inputs=model_card.describe_hf(encoder),
        usage=model_card.usage_hf(frames=frames, crop_size=size),
        origin=origin,
        **words,
    )
    weights.write_hf(
        folder,
        params,
        encoder=fields(encoder),
        predictor=fields(predictor),
        crop_size=size,
        frames=frames,
        mask_token=shared,
        card=card,
        origin=origin,
    )
    theirs = 1 % predictor.mask_tokens
    clip = np.random.default_rng(0).standard_normal((1, frames, size, size, 3))
    clip = clip.astype(np.float32)
    live = outputs(
        encoder, predictor, params, clip, use=theirs if shared is None else shared
    )
    e, p, read = weights.read_hf(folder)
    again = outputs(Encoder(**e), Predictor(**p), read, clip, use=theirs)
    gap = artifacts.check_same(again, live, atol=ATOL)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        found = run_hf(folder, clip, live["features"].shape[1])
        gap = max(gap, artifacts.check_same(found, live, atol=ATOL))
    return gap


def fields(module) -> dict:
    """The attributes of a network that its outputs depend on."""
    names = {f.name for f in dataclasses.fields(module)}
    names -= {"parent", "name", "dtype", "remat", "attention", "rescale"}
    return {name: getattr(module, name) for name in sorted(names)}


def even_and_odd(tokens: int):
    """Indices of the even tokens, the context, and of the odd ones, the target: [1, n]."""
    return np.arange(0, tokens, 2)[None], np.arange(1, tokens, 2)[None]


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="use")
def outputs(encoder, predictor, params, clip, *, use):
    """{"features": [1, N, D], "guess": predictions of the odd tokens} of a standardized clip.

    As in transformers, the context is taken from the features of the whole clip. `use` is
    the number of the mask token.
    """
    grid = grid_of(clip.shape, encoder.patch)
    patches = patchify(clip, encoder.patch)
    features = encoder.apply({"params": params["encoder"]}, patches, grid=grid)
    context, target = (jnp.asarray(x) for x in even_and_odd(patches.shape[1]))
    guess = predictor.apply(
        {"params": params["predictor"]},
        take(features, context),
        context,
        target,
        grid=grid,
        use=(use,),
    )
    return {"features": features, "guess": guess}


def run_hf(folder, clip, tokens: int) -> dict:
    """The `outputs` of torch and transformers for a folder; needs both installed."""
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    context, target = ([torch.tensor(x)] for x in even_and_odd(tokens))
    pixels = torch.tensor(np.moveaxis(clip, -1, 2))
    with torch.no_grad():
        out = model(pixels, context_mask=context, target_mask=target)
    found = {"features": out, "guess": out.predictor_output}
    return {name: x.last_hidden_state.numpy() for name, x in found.items()}
