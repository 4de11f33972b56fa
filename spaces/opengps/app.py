"""
openGPS: where a protein is found in the cell, and how it looks there.

    python spaces/opengps/app.py                                # http://127.0.0.1:7860, on the shipped models, offline
    OPENGPS_MODELS="me/deeploc me/deepgps" python spaces/opengps/app.py      # Hub models that people may choose too
    OPENGPS_SUBMISSIONS=me/cells HF_TOKEN=... python spaces/opengps/app.py   # a Hub data set for what people submit
    OPENGPS_LOOKUP=off python spaces/opengps/app.py             # accessions are not looked up at UniProt
"""

import argparse
import os
from pathlib import Path

import api
import compare_tab
import gradio as gr
import gradio.mcp
import help_tab
import housekeeping
import predict_tab
import reading
import service
import submit
import submit_tab
from httpx2 import HTTPError
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from protloc.hub import refusal

QUEUE = 200  # requests that may wait
INTRO = f"""
# openGPS
Paste a protein's sequence: **DeepLoc** says in which compartments of the cell it is found, and **deepGPS** draws how it
may spread in a cell whose nucleus you show (or in ours). Up to {reading.MAX_PROTEINS} proteins at a time.
"""
STYLE = Path(__file__).with_name("style.css")


def build() -> gr.Blocks:
    with gr.Blocks(
        title="openGPS", analytics_enabled=False, delete_cache=(housekeeping.KEPT // 6, housekeeping.KEPT)
    ) as demo:
        gr.Markdown(INTRO)
        with gr.Tab("Predict"):
            predict_tab.build()
        with gr.Tab("Compare"):
            compare_tab.build()
        with gr.Tab("Submit"):
            submit_tab.build()
        with gr.Tab("Help"):
            help_tab.build()
        api.build()
    demo.queue(max_size=QUEUE, default_concurrency_limit=predict_tab.CONCURRENCY)
    return demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, or the Space's)")
    parser.add_argument("--port", type=int, help="port (default: 7860)")
    args = parser.parse_args()
    if "SPACE_ID" in os.environ:
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")  # visitors' addresses are those that the Space's proxy names
    housekeeping.settle()
    service.choose("default")  # loaded once, before anybody waits for it
    try:
        print(f"Submissions go to {submit.open_store()}.")
    except (ValueError, OSError, HTTPError) as error:
        parser.exit(2, f"openGPS: {refusal(error)}\n")
    gradio.mcp.GradioMCPServer = api.Assistants  # type: ignore[misc]  # what `launch` makes
    build().launch(
        server_name=args.host,
        server_port=args.port,
        mcp_server=True,
        max_file_size=submit.MAX_ARCHIVE_BYTES,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=["api"],
        app_kwargs={"middleware": [Middleware(housekeeping.Guard), Middleware(GZipMiddleware)]},
        # System fonts: nothing is loaded from elsewhere.
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=STYLE.read_text(encoding="utf-8"),
        ssr_mode=False,
    )


if __name__ == "__main__":
    main()
