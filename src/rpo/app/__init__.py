"""The page of `rpo app`: photos in, pictures out, in the browser. Only here is Gradio imported."""
