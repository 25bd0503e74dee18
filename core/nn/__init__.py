"""Networks: attention, transformer, convolutions, distributions; imports parallel and base."""
