# Files that a run of train_treeformer cannot begin with, or would destroy, are refused by one line before anything is
# made; and what can be written is, though another result cannot be.
#
#   cmake -D TRAIN=<program> -D SCRATCH=<folder> -P check_files.cmake
file(REMOVE_RECURSE "${SCRATCH}")
file(MAKE_DIRECTORY "${SCRATCH}")
set(one --task listops --quick --heads 1 --length 16)
set(exact ${one} --attention exact --steps 0,4,0)
set(tree ${one} --attention tf --height 1 --bootstrap --steps 0,4,1)

function(run result_is)
  execute_process(COMMAND "${TRAIN}" --svg none ${ARGN} WORKING_DIRECTORY "${SCRATCH}" RESULT_VARIABLE result
                  OUTPUT_QUIET ERROR_VARIABLE said TIMEOUT 60)
  if(NOT result EQUAL "${result_is}")
    message(FATAL_ERROR "check_files: '${ARGN}' should return ${result_is}, but ${result}: ${said}")
  endif()
  set(said "${said}" PARENT_SCOPE)
endfunction()

# refused(<part of the line> <options>...): no file is made and none is changed.
function(refused part)
  file(GLOB before "${SCRATCH}/*")
  run(2 ${ARGN})
  file(GLOB after "${SCRATCH}/*")
  string(REGEX MATCHALL "\n" lines "${said}")
  list(LENGTH lines n_lines)
  if(NOT n_lines EQUAL 1 OR NOT said MATCHES "${part}" OR NOT before STREQUAL after)
    message(FATAL_ERROR "check_files: '${ARGN}' should make no file and say one line with '${part}': ${said}")
  endif()
endfunction()

# edited(<file> <from> <to>): a copy of the checkpoint, "edited", whose header says <to> for <from>.
function(edited file from to)
  file(WRITE "${SCRATCH}/edit.sh" "export LC_ALL=C
length=$(od -An -tu8 -N8 '${file}')
head=$(tail -c +9 '${file}' | head -c $length | sed 's/${from}/${to}/')
{ printf \"$(printf '\\\\x%02x' $((\${#head} % 256)) $((\${#head} / 256)) 0 0 0 0 0 0)\"
  printf %s \"$head\"
  tail -c +$((length + 9)) '${file}'
} > edited\n")
  execute_process(COMMAND bash "${SCRATCH}/edit.sh" WORKING_DIRECTORY "${SCRATCH}" COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(0 --csv none ${exact} --model model --checkpoint checkpoint)
file(COPY_FILE "${SCRATCH}/model" "${SCRATCH}/input.new")
file(CREATE_LINK "${SCRATCH}/model" "${SCRATCH}/linked")
file(COPY_FILE "${SCRATCH}/checkpoint" "${SCRATCH}/edited")
file(WRITE "${SCRATCH}/edit.sh" "")

refused("--from and --model, .* are both input.new but must be two files" --csv none ${tree} --from input.new --model
        input)
refused("--checkpoint, .* and --model are both c.new but must be two files" --csv none ${exact} --model c.new
        --checkpoint c)
refused("--from and --csv are both linked but must be two files" ${tree} --from model --csv linked)

refused("checkpoint is no such file of --model: its task is not said but must be listops" ${tree} --from checkpoint)
refused("no_file: file cannot be opened" ${tree} --from no_file)
refused("no_file: file cannot be opened" ${exact} --evaluate no_file)
refused("no_file: file cannot be opened" ${exact} --checkpoint no_file --resume)
refused("model says stage \"not said\" but must say first" ${exact} --checkpoint model --resume)
foreach(stage "converted" "pretraining" "other" "")
  edited(checkpoint "\"stage\":\"first\"" "\"stage\":\"${stage}\"")
  refused("edited says stage \"${stage}\" but must say first" ${exact} --checkpoint edited --resume)
endforeach()
foreach(steps 5 -1 9223372036854775807 99999999999999999999 1x)
  edited(checkpoint "\"steps_done\":\"4\"" "\"steps_done\":\"${steps}\"")
  refused("edited says steps_done \"${steps}\" but must say 0 to 4" ${exact} --checkpoint edited --resume)
endforeach()

file(SIZE "${SCRATCH}/checkpoint" size)
math(EXPR last "${size} - 4")
file(COPY_FILE "${SCRATCH}/checkpoint" "${SCRATCH}/edited")
execute_process(COMMAND bash -c "printf '\\000\\000\\300\\177' | dd of=edited bs=1 seek=${last} conv=notrunc"
                WORKING_DIRECTORY "${SCRATCH}" ERROR_QUIET COMMAND_ERROR_IS_FATAL ANY)
refused("has the number .*nan but must have finite ones" ${exact} --checkpoint edited --resume)

run(0 --csv none ${one} --attention exact --steps 0,0,0 --checkpoint of_no_steps)
run(0 --csv none ${one} --attention exact --steps 0,0,0 --checkpoint of_no_steps --resume)

refused("--tree-window is of --attention tf, but --attention is exact" ${exact} --tree-window 4)
refused("--seed: .*-1" ${exact} --seed -1)
refused("--seed: .*18446744073709551616" ${exact} --seed 18446744073709551616)
refused("--height is 5 but 2.height must be at most the tokens of the longest sequence, 17" ${one} --attention tf)

# Where nothing is said of tied projections they are as the task's recipe has them: recall's are, those of ListOps not.
foreach(recipe IN ITEMS recall:tied:untied listops:untied:tied)
  string(REGEX MATCH "(.*):(.*):(.*)" recipe "${recipe}")
  set(untrained --csv none --task ${CMAKE_MATCH_1} --quick --heads 1 --length 16 --attention exact --steps 0,0,0)
  run(0 ${untrained} --model unsaid)
  run(0 ${untrained} --model same --${CMAKE_MATCH_2})
  run(0 ${untrained} --model other --${CMAKE_MATCH_3})
  foreach(model IN ITEMS unsaid same other)
    file(SHA256 "${SCRATCH}/${model}" ${model})
  endforeach()
  if(NOT unsaid STREQUAL same OR unsaid STREQUAL other)
    message(FATAL_ERROR "check_files: projections of which nothing is said should be as with ${recipe}")
  endif()
endforeach()

string(REPEAT "0123456789" 40 text)
set(reading --task text-lm --quick --length 8 --heads 1 --attention exact --steps 0,1,0 --file text --checkpoint read)
file(WRITE "${SCRATCH}/text" "${text}")
run(0 --csv none ${reading})
file(WRITE "${SCRATCH}/text" "1${text}")
refused("read is of the run .* of 400 bytes .* but must be of .* of 401 bytes" ${reading} --resume)

# A file that may not grow past 64 KiB stands for a full disk.
file(WRITE "${SCRATCH}/activations" "what was there")
string(JOIN "' '" words "${TRAIN}" ${exact} --heads 4 --svg none --csv steps.csv --activations activations)
string(REPLACE "'--heads' '1' " "" words "'${words}'")
execute_process(COMMAND bash -c "trap '' XFSZ; ulimit -f 64; ${words}" WORKING_DIRECTORY "${SCRATCH}"
                RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE said)
file(READ "${SCRATCH}/activations" kept)
if(NOT result EQUAL 2 OR NOT said MATCHES "not written whole" OR NOT kept STREQUAL "what was there" OR
   NOT EXISTS "${SCRATCH}/steps.csv")
  message(FATAL_ERROR "check_files: the disk is full, so that the earlier file and the CSV should be there: ${said}")
endif()
message("check_files: what cannot be begun with is refused, and nothing is lost")
