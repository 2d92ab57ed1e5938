"""Everything between the chat path and the machines that answer: transport, backends, frames, the demo."""
