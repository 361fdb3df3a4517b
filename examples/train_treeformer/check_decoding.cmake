# A causal model answers token after token from caches as it does in one pass: the same loss from float, nearly the same
# from 8 bits and to a tolerance, which reads a part of the keys; and what cannot be decoded is refused by one line.
#
#   cmake -D TRAIN=<program> -D SCRATCH=<folder> -P check_decoding.cmake
file(REMOVE_RECURSE "${SCRATCH}")
file(MAKE_DIRECTORY "${SCRATCH}")
# Heads of 32 columns are read in full up to 4096 keys: 6000 leave some to the tolerance.
set(run "${TRAIN}" --task text-lm --attention exact --heads 1 --length 6000 --steps 40,0,0 --csv none --svg none)
set(model "${SCRATCH}/model.safetensors")
execute_process(COMMAND ${run} --model "${model}" RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE said)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "check_decoding: training failed: ${result}: ${said}")
endif()
execute_process(COMMAND ${run} --evaluate "${model}" --decode float,bfloat16,int8,within:0.05 RESULT_VARIABLE result
                OUTPUT_VARIABLE said ERROR_VARIABLE errors)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "check_decoding: evaluation failed: ${result}: ${errors}")
endif()

# loss_of(<variable> <name>): of the line of that name, in units of 1e-5 nats.
function(loss_of variable name)
  if(NOT said MATCHES "${name} +accuracy [0-9.]+ +loss ([0-9]+)[.]([0-9][0-9][0-9][0-9][0-9]) ")
    message(FATAL_ERROR "check_decoding: there is no line of ${name}: ${said}")
  endif()
  math(EXPR loss "${CMAKE_MATCH_1} * 100000 + 1${CMAKE_MATCH_2} - 100000")
  set(${variable} ${loss} PARENT_SCOPE)
endfunction()
loss_of(exact exact)
foreach(bound IN ITEMS "float 1" "bfloat16 200" "int8 200" "within:0.05 1000")
  separate_arguments(bound)
  list(GET bound 0 name)
  list(GET bound 1 most)
  loss_of(loss "${name}")
  math(EXPR difference "${loss} - ${exact}")
  if(difference GREATER most OR difference LESS -${most})
    message(FATAL_ERROR "check_decoding: ${name} is ${difference}e-5 nats from exact, more than ${most}e-5: ${said}")
  endif()
endforeach()
if(NOT said MATCHES "within:0[.]05 .* 0[.][0-9]+ of keys in full")
  message(FATAL_ERROR "check_decoding: within:0.05 must read a part of the keys: ${said}")
endif()

include("${CMAKE_CURRENT_LIST_DIR}/refused.cmake")
set(evaluation --attention exact --evaluate "${model}" --heads 1 --length 6000 --steps 40,0,0)
refused("--decode needs --evaluate FILE" --decode int8)
foreach(kind IN ITEMS int4 within within: within:-1 within:nan within:0.05x float:1)
  refused("--decode has ${kind} but must have float, bfloat16, int8 or within:TOLERANCE" --task text-lm ${evaluation}
          --decode ${kind})
endforeach()
execute_process(COMMAND "${TRAIN}" --task listops --quick --attention exact --heads 1 --steps 0,1,0 --csv none
                        --svg none --model "${SCRATCH}/listops.safetensors" OUTPUT_QUIET ERROR_QUIET)
refused("--decode needs a model that is causal: --task text-lm" --task listops --quick --attention exact --heads 1
        --steps 0,1,0 --evaluate "${SCRATCH}/listops.safetensors" --decode int8)
message("check_decoding: caches answer as one pass does: ${said}")
