"""A plan of LeWorldModel with the solver and the networks of stable-worldmodel 0.1.1.

Their weights are random, in the shapes of ours. The encoder, which runs twice per plan, is that
of jepa.perf.plan_peer_torch.
"""

import types

import numpy as np
import stable_worldmodel
import torch
from gymnasium.spaces import Box
from stable_worldmodel.solver.cem import CEMSolver
from stable_worldmodel.wm.lewm.lewm import LeWM
from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor

from jepa.perf import plan_peer_torch

VERSIONS = (
    f"stable-worldmodel 0.1.1 ({stable_worldmodel.__name__}), torch {torch.__version__}"
)


class Features(torch.nn.Module):
    """Features of our encoder as the package reads them."""

    def __init__(self, program):
        super().__init__()
        self.program = program
        self.scale = torch.nn.Parameter(torch.ones(()))  # gives the module a dtype

    def forward(self, pixels, interpolate_pos_encoding=True):
        x = self.program.features(pixels.permute(0, 2, 3, 1))
        return types.SimpleNamespace(last_hidden_state=x[:, None])


class Program:
    """The solver, its model, and the problems of a folder of jepa.perf.plan_peer."""

    def __init__(self, folder):
        ours = plan_peer_torch.Program(folder)
        about, w, given = ours.about, ours.weights, ours.given
        sizes, (smooth, wide) = about["predictor"], w["action/up/kernel"].shape
        features, hidden = w["projector/up/kernel"].shape
        D = w["projector/down/kernel"].shape[1]
        B, _, horizon, width = given["plans"].shape
        model = LeWM(
            Features(ours),
            Predictor(
                num_frames=about["window"],
                depth=sizes["depth"],
                heads=sizes["heads"],
                dim_head=sizes["head_dim"],
                mlp_dim=sizes["hidden"],
                input_dim=D,
                hidden_dim=sizes["width"],
                output_dim=sizes["width"],
            ),
            Embedder(width, smooth, D, wide // D),
            MLP(features, hidden, D, torch.nn.BatchNorm1d),
            MLP(sizes["width"], hidden, D, torch.nn.BatchNorm1d),
        ).eval()
        self.solver = CEMSolver(
            model,
            batch_size=1,  # its default; its cost fails for more
            num_samples=about["candidates"],
            n_steps=about["rounds"],
            topk=about["best"],
        )
        skip = about["skip"]
        self.solver.configure(
            action_space=Box(-np.inf, np.inf, (B, width // skip)),
            n_envs=B,
            config=types.SimpleNamespace(horizon=horizon, action_block=skip),
        )
        pictures = {"pixels": given["image"], "goal": given["goal"]}
        self.problems = {
            k: x.permute(0, 3, 1, 2)[:, None].float() for k, x in pictures.items()
        }
        self.problems["action"] = torch.zeros(B, 1, width)

    def check(self):
        """No costs to compare: the weights are others."""
        return torch.zeros(0)

    def plan(self):
        return self.solver.solve(dict(self.problems))
