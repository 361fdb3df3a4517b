# For doxygen's eyes only: the words that open a line of a doc block become headed paragraphs.
s,^( *///) (Shapes|Empty|Errors|Cost|Threads|Source|Accuracy|Memory|Order|Determinism|Draws|Exact|Later|Heads)  *(.*)$,\1 @par \2\n\1 \3,
