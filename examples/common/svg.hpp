#pragma once
#include <array>
#include <string>

#include "printf_text.hpp"

namespace common {

/// Colours of series, in order.
inline constexpr std::array<const char*, 8> colours = {"#1b6ca8", "#c8553d", "#3a7d44", "#7b4fa3",
                                                       "#b8860b", "#0f8b8d", "#a23b72", "#5c5c5c"};

inline std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '&')
      safe += "&amp;";
    else if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else
      safe += c;
  }
  return safe;
}

/// Text at a place; `attributes` of the element hold its class.
inline std::string text_at(double x, double y, const std::string& attributes, const std::string& text) {
  return format("<text x=\"%.1f\" y=\"%.1f\" ", x, y) + attributes + ">" + escaped(text) + "</text>\n";
}

/// What every picture starts with: its size in pixels, its classes of text and lines, a white ground.
inline std::string svg_start(double width, double height) {
  return format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\">\n",
                width, height, width, height) +
         "<style>text{font-family:'DejaVu Sans',Helvetica,Arial,sans-serif;fill:#222}"
         ".title{font-size:17px;font-weight:bold}.sub{font-size:11.5px;fill:#555}"
         ".loud{font-size:13px;font-weight:bold;fill:#c00}.tick{font-size:12px}.name{font-size:13.5px}"
         ".label{font-size:13px;paint-order:stroke;stroke:#fff;stroke-width:4px}"
         ".grid{stroke:#e4e4e4}.axis{stroke:#222;fill:none}.leader{stroke:#999;stroke-width:.8}"
         ".mark{stroke:#888;stroke-dasharray:5 4}.note{font-size:11.5px;fill:#777}</style>\n"
         "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
}

}  // namespace common
