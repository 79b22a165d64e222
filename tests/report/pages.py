"""What tests of pages share: a page taken apart, and what its maps show in a browser."""

import json
from html.parser import HTMLParser

# of the fit whose page is tested; a name that HTML would take for its own
INPUTS = [{"name": "flats/a<b>&'\".fits", "sha256": "5e" * 32}]

# text of the box that appears beside a detector on a map; empty while there is none
TIP = "(() => { const tip = document.querySelector('.maps .tip'); return tip.hidden ? '' : tip.innerText; })()"


class Parsed(HTMLParser):
    """Tags, text, cells of tables, and the data of charts."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text, self.rows, self.charts, self.kind = [], [], "", [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        self.kind = dict(attributes).get("data-kind", self.kind)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            if self.kind and data.startswith("{"):
                self.charts.append((self.kind, json.loads(data)))
        elif self.open[-1:] != ["style"]:
            self.text += data
            if self.open[-1:] in (["td"], ["th"]):
                self.rows[-1][-1] += data


def chart(page, kind):
    (found,) = (data for name, data in Parsed(page).charts if name == kind)
    return found
