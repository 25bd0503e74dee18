"""The V-JEPA step on transformers' VJEPA2 modules as they are; `--peer=transformers`."""

import torch
import transformers

from jepa.perf import torch_parts as parts

VERSIONS = f"transformers {transformers.__version__}, torch {torch.__version__}, eager"


class Program:
    """Networks of a Hugging Face folder; attributes as in torch_masked."""

    def __init__(self, folder):
        self.settings, _, given = parts.read_given(folder)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        model = transformers.VJEPA2Model.from_pretrained(folder).train()
        teacher = transformers.VJEPA2Model.from_pretrained(folder).encoder.train()
        self.networks, self.teacher = model, teacher.requires_grad_(False)
        self.trained = list(model.parameters())
        self.averaged = list(model.encoder.parameters())
        self.averages = list(teacher.parameters())
        self.video = given["video"]
        self.context, self.hidden = (
            given[name].split(self.settings["sizes"][name], 1)
            for name in ("context", "target")
        )

    def pixels(self):
        """uint8 [B, T, H, W, 3] -> standardized float32 [B, T, 3, H, W]."""
        mean, std = (torch.tensor(self.settings[k]) for k in ("mean", "std"))
        return ((self.video / 255 - mean) / std).permute(0, 1, 4, 2, 3)

    def loss(self):
        video, encoder = self.pixels(), self.networks.encoder
        with torch.no_grad():
            truth = self.teacher(video).last_hidden_state
            truth = torch.nn.functional.layer_norm(truth, truth.shape[-1:], eps=1e-5)
        tokens, terms = encoder.embeddings(video), []
        for context, target in zip(self.context, self.hidden, strict=True):
            x = run_layers(encoder.layer, take(tokens, context), context)
            x = self.predict(encoder.layernorm(x), context, target)
            terms.append((x - take(truth, target)).abs().mean())
        return torch.stack(terms).mean()

    def predict(self, x, context, target):
        predictor = self.networks.predictor
        x = predictor.embeddings.predictor_embeddings(x)
        hidden = predictor.embeddings.mask_tokens[0].expand(len(x), target.shape[1], -1)
        x = torch.cat([x, hidden], 1)
        x = run_layers(predictor.layer, x, torch.cat([context, target], 1))
        return predictor.proj(predictor.layernorm(x[:, context.shape[1] :]))


def run_layers(layers, x, index):
    for layer in layers:
        x = layer(x, index)[0]
    return x


def take(x, index):
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
