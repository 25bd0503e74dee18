"""Exports of V-JEPA: StableHLO, safetensors, Hugging Face folder."""

import dataclasses
import functools
import importlib.util
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.base.names import choose
from core.export import artifacts
from core.nn.token_order import take
from jepa.nets.dense_model import DenseEncoder
from jepa.nets.encode import make_encode, make_guess, make_levels, video_specs
from jepa.nets.model import Encoder, Predictor, grid_of, patchify
from jepa.nets.view_model import ViewEncoder
from jepa.weights import hf_weights, model_card

ATOL = 1e-4  # of features of unit variance; float32 noise between programs is 1e-5


def make_exports(
    encoder, predictor, *, use, config: dict, frames: int = 0, words: dict | None = None
) -> dict:
    """Format -> core.method.Export: "stablehlo", "safetensors" and "hf", all in float32.

    A DenseEncoder has a second program, "image"; it has no "hf" (jepa/dense.py).

    Args:
      use: number of the mask token of each mask pattern.
      config: the resolved config, for the card.
      frames: of the programs' clips; 0 is data.frames. words: title and what of the card,
        by default those of V-JEPA.
    """
    anywhere = {"dtype": jnp.float32, "attention": "plain"}
    networks = Networks(*(m.clone(**anywhere) for m in (encoder, predictor)), use)
    frames, size = frames or config["data"]["frames"], config["data"]["size"]
    usual = {"title": model_card.TITLE, "what": model_card.WHAT}
    words = (words or usual) | {"config": config}
    words["what"] = words["what"].format(encoder.patch)
    rest = {"frames": frames, "size": size, "words": words}
    return {
        "stablehlo": functools.partial(export_stablehlo, networks, **rest),
        "safetensors": functools.partial(export_safetensors, networks, **rest),
        "hf": functools.partial(export_hf, networks, **rest),
    }


def make_view_exports(encoder: ViewEncoder, *, average: float, config: dict) -> dict:
    """Format -> core.method.Export of LeVJEPA's encoder: "stablehlo" and "safetensors".

    average: momentum of the moving average that is exported; 0 if the encoder is.
    """
    encoder = encoder.clone(dtype=jnp.float32, attention="plain")
    words = {
        "title": model_card.VIEW_TITLE,
        "what": model_card.VIEW_WHAT.format(encoder.patch),
        "config": config,
    }
    rest = {
        "frames": config["data"]["frames"],
        "size": config["data"]["size"],
        "words": words,
        "network": model_card.VIEW_AVERAGE if average else model_card.VIEW_NETWORK,
    }
    networks = Networks(encoder, None, ())

    def without_predictor(write, state, folder, origin, encoder="target", levels=()):
        return write(networks, state, folder, origin, encoder=encoder, levels=levels,
                     **rest)  # fmt: skip

    return {
        "stablehlo": functools.partial(without_predictor, export_stablehlo),
        "safetensors": functools.partial(without_predictor, export_safetensors),
    }


class Networks(NamedTuple):
    """What is exported. use: number of the mask token of each mask pattern."""

    encoder: Encoder | DenseEncoder | ViewEncoder
    predictor: Any  # None if there is none
    use: tuple[int, ...]


def chosen_params(state, encoder: str, predictor: bool) -> dict:
    """{"encoder": weights of the one named}, and "predictor" if it is wanted.

    Raises ValueError for an unknown name, and for weights that `state` does not hold.
    """
    held = {"target": state.target, "online": state.params["encoder"]}
    names = choose([encoder], held, "encoder")
    params = {"encoder": names[encoder]}
    params |= {"predictor": state.params["predictor"]} if predictor else {}
    for name, x in params.items():
        if x is None:
            hint = f" {encoder!r}; there is another --encoder"
            if name == "predictor":
                hint = "; stablehlo and safetensors do without, unless --predictor"
            raise ValueError(f"these weights hold no {name}{hint}")
    return params


def card_of(
    networks: Networks, encoder, predictor, levels, frames, size, words, network=""
) -> dict:
    """Arguments of `artifacts.card` besides usage and origin, for our own formats.

    network: which weights these are, of methods without a target and a predictor.
    """
    clip = {"frames": frames, "rows": size, "cols": size}
    about = {"predictor": predictor, "levels": levels}
    inputs = model_card.describe(networks.encoder, **clip, **about)
    if isinstance(networks.encoder, DenseEncoder):
        inputs += model_card.INPUTS_IMAGE
    network = model_card.network(encoder, **about, which=network)
    return words | {"network": network, "inputs": inputs}


def export_stablehlo(
    networks, state, folder, origin, *, frames, size, words,
    encoder="target", predictor=False, levels=(), network="",
) -> float:  # fmt: skip
    """Write the program `model`, and `predictor` if it is wanted.

    Returns the largest difference of an output; raises ValueError if it exceeds ATOL.
    """
    check_dense(networks, predictor, levels)
    params = chosen_params(state, encoder, predictor)
    specs = video_specs(frames=frames, rows=size, cols=size)
    grid = grid_of(specs["video"].shape, networks.encoder.patch)
    encode = make_encode(networks.encoder)
    if levels:
        encode = make_levels(networks.encoder, levels)
    programs = {"model": (encode, specs)}
    if isinstance(networks.encoder, DenseEncoder):  # images have their own embedding
        programs["image"] = encode, video_specs(frames=1, rows=size, cols=size)
    if predictor:
        guess = make_guess(networks.predictor, grid=grid, use=networks.use[0])
        tokens = (1, math.prod(grid))
        seen = {
            "features": jax.ShapeDtypeStruct((*tokens, networks.encoder.width), "f4"),
            "visible": jax.ShapeDtypeStruct(tokens, np.bool_),
        }
        programs = {
            "model": (part("encoder", encode), specs),
            "predictor": (part("predictor", guess), seen),
        }
    about = card_of(networks, encoder, predictor, levels, frames, size, words, network)
    whole = params if predictor else params["encoder"]
    return artifacts.export_stablehlo(
        folder, programs, whole, atol=ATOL, origin=origin, **about
    )


def check_dense(networks: Networks, predictor: bool, levels) -> None:
    """Raise ValueError for programs that V-JEPA 2.1 has not."""
    if isinstance(networks.encoder, DenseEncoder) and (predictor or levels):
        raise ValueError(
            "--predictor and --levels: of V-JEPA 2.1 the encoder alone is exported as a "
            "program, since its predictor takes features of four levels at once"
        )


def part(name: str, fn):
    """A function of the params that hold those of `fn` under a name."""
    return lambda params, inputs: fn(params[name], inputs)


def export_safetensors(
    networks, state, folder, origin, *, frames, size, words,
    encoder="target", predictor=False, levels=(), network="",
) -> float:  # fmt: skip
    """Write the weights; of levels, which are made of the same weights, the card tells."""
    make_levels(networks.encoder, levels)  # raises
    params = chosen_params(state, encoder, predictor)
    about = card_of(networks, encoder, predictor, levels, frames, size, words, network)
    whole = params if predictor else params["encoder"]
    return artifacts.export_safetensors(folder, whole, origin=origin, **about)


def export_hf(
    networks, state, folder, origin, *, frames, size, words,
    encoder="target", predictor=True, levels=(),
) -> float:  # fmt: skip
    """Write a Hugging Face folder of an encoder and the predictor, and check it.

    What is read back runs beside the live networks; so does transformers' own model if
    torch and transformers are installed. Returns the largest difference of an output;
    raises ValueError if it exceeds ATOL, and for choices that the layout cannot express.

    Args:
      frames, size: of a training clip, in frames and pixels.
      words: title, what and config of the model card.
    """
    check_hf_choices(predictor, levels)
    params, use = chosen_params(state, encoder, predictor), networks.use
    which, (encoder, predictor, _) = encoder, networks
    # transformers takes token 1 % n. A token of all patterns is copied into every slot;
    # with one per pattern the slots stay, and transformers takes the second.
    shared = use[0] if len(set(use)) == 1 else None
    card = artifacts.card(
        network=model_card.network(which, predictor=True),
        inputs=model_card.describe_hf(encoder),
        usage=model_card.usage_hf(frames=frames, crop_size=size),
        origin=origin,
        **words,
    )
    hf_weights.write_hf(
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
    e, p, read = hf_weights.read_hf(folder)
    again = outputs(Encoder(**e), Predictor(**p), read, clip, use=theirs)
    gap = artifacts.check_same(again, live, atol=ATOL)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        found = run_hf(folder, clip, live["features"].shape[1])
        gap = max(gap, artifacts.check_same(found, live, atol=ATOL))
    return gap


def check_hf_choices(predictor: bool, levels) -> None:
    """Raise ValueError for what the Hugging Face layout cannot express."""
    if not predictor:
        raise ValueError(
            "--predictor=false: a Hugging Face V-JEPA 2 folder always holds a predictor; "
            "transformers skips it by skip_predictor=True. Use stablehlo or safetensors"
        )
    if levels:
        raise ValueError(
            "--levels: a Hugging Face folder gives the tokens after every block by "
            "output_hidden_states=True, without the final norm, and has no field to choose "
            "some; leave --levels out, or use stablehlo"
        )


def fields(module) -> dict:
    """The attributes of a network that its outputs depend on."""
    names = {f.name for f in dataclasses.fields(module)}
    names -= {"parent", "name", "dtype", "remat", "attention", "rescale", "mask_std"}
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
