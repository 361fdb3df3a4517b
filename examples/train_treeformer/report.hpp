#pragma once
#include <string>
#include <vector>

#include "training.hpp"

namespace train_treeformer {

/// "step 120 / 410, tf, n 2048: loss 0.0312, accuracy .9951, attention 12.3 kFLOP a token, 3.42 steps/s, 1:23 left".
std::string progress_text(const CurvePoint& point, Index n_steps, double seconds_left);

/// A line of a milestone: accuracy, loss, FLOPs, how many times fewer than exact, fullest leaf.
std::string milestone_text(const Milestone& milestone);

std::string guess_text(const std::vector<Guess>& guesses);

/// Every step: step,phase,n,rate,loss,accuracy,gradient_norm,attention_flops_per_token,seconds.
std::string csv_text(const Run& run);

/// Accuracy of the steps, running means, and of the milestones on held-out sequences; dashed lines at the guesses and
/// where the method was converted.
std::string svg_text(const Run& run, const std::vector<Guess>& guesses, const std::string& title,
                     const std::string& subtitle);

}  // namespace train_treeformer
